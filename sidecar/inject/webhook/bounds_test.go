// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// An injector that is busy says so in a way that API servers understand: what they call webhooks with asks again after a second, and
// no pod is refused.
func TestBusy(t *testing.T) {
	h, _ := handler(t, options)
	server := httptest.NewServer(h)
	defer server.Close()
	everything, ok := h.Bounds.small.Take(t.Context(), bodiesTogether, func() { t.Error("a review under way was cut") })
	if !ok || !everything.Keep() {
		t.Fatal("the bounds are taken")
	}
	answer, err := http.Post(server.URL, "application/json", strings.NewReader(reviewOf("shop", "CREATE", "pods", pod(wanted))))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusTooManyRequests || answer.Header.Get("Retry-After") != "1" || !answer.Close || !strings.Contains(string(text), "ask again") {
		t.Errorf("%s %v %s", answer.Status, answer.Header, text)
	}
	// As in k8s.io/apiserver, pkg/util/webhook/client.go.
	scheme := runtime.NewScheme()
	if err := admissionv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	client, err := rest.UnversionedRESTClientFor(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{NegotiatedSerializer: serializer.NegotiatedSerializerWrapper(
		runtime.SerializerInfo{Serializer: serializer.NewCodecFactory(scheme).LegacyCodec(admissionv1.SchemeGroupVersion)},
	)}})
	if err != nil {
		t.Fatal(err)
	}
	review := &admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{
		UID: "u-1", Namespace: "shop", Operation: admissionv1.Create, Object: runtime.RawExtension{Raw: []byte(pod(wanted))},
	}}
	review.Request.Resource.Version, review.Request.Resource.Resource = "v1", "pods"
	got := &admissionv1.AdmissionReview{}
	asked := make(chan error, 1)
	go func() { asked <- client.Post().Body(review).Do(context.Background()).Into(got) }()
	kit.Until(t, "it is sent away", func() bool { return testutil.ToFloat64(h.Metrics.reviews.WithLabelValues(resultBusy)) >= 2 })
	everything.Return()
	if err := <-asked; err != nil || got.Response == nil || !got.Response.Allowed || len(got.Response.Patch) == 0 {
		t.Errorf("%v, %+v", err, got.Response)
	}
	if held := h.Bounds.small.Held(); held != 0 {
		t.Errorf("%d bytes are held by nobody", held)
	}
}

// A review that is too large is refused as one, whatever the failurePolicy is, if it begins as those of API servers do.
func TestTooLarge(t *testing.T) {
	h, _ := handler(t, options)
	large := reviewOf("shop", "CREATE", "pods", pod(wanted+`,"x":"`+strings.Repeat("x", maxBody)+`"`))
	for name, body := range map[string]io.Reader{"announced": strings.NewReader(large), "not announced": io.MultiReader(strings.NewReader(large))} {
		w := post(h, body)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"uid":"u-1","allowed":false`) || !strings.Contains(w.Body.String(), `"code":413`) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	for name, elements := range map[string]string{"lists": strings.Repeat("{},", 5000) + "{}", "fields": `{"a":{` + strings.Repeat(`"a":1,`, 20_000) + `"a":1}}`} {
		answer := answerTo(t, h, reviewOf("shop", "CREATE", "pods", `{"spec":{"containers":[`+elements+`]}}`))
		if answer.Allowed || answer.Result.Code != http.StatusUnprocessableEntity || !strings.Contains(answer.Result.Message, "take some out") {
			t.Errorf("%s: %+v", name, answer.Result)
		}
	}
	if got := testutil.ToFloat64(h.Metrics.reviews.WithLabelValues(resultRefused)); got != 4 {
		t.Errorf("%v are counted as refused", got)
	}
}

// Heavy reviews are made one at a time, and do not keep light ones waiting.
func TestLanes(t *testing.T) {
	b := NewBounds()
	leave, ok := b.enter(t.Context(), lightCost+1)
	if !ok {
		t.Fatal("nothing is under way")
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := b.enter(over, lightCost+1); ok {
		t.Error("two heavy reviews are made at a time")
	}
	light, ok := b.enter(t.Context(), lightCost)
	if !ok {
		t.Fatal("a light review waits for a heavy one")
	}
	light()
	leave()
	b.queued.Store(heavyWaiting)
	if _, ok := b.enter(t.Context(), lightCost+1); ok {
		t.Error("more heavy reviews wait than may")
	}
	b.queued.Store(0)
	if leave, ok = b.enter(t.Context(), lightCost+1); !ok {
		t.Fatal("nothing is under way any more")
	}
	leave()
	if b.queued.Load() != 0 || len(b.light)+len(b.heavy) != 0 {
		t.Errorf("%d queued, %d and %d made", b.queued.Load(), len(b.light), len(b.heavy))
	}
}
