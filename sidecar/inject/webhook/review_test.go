// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

const canary = "canary-5d1c"

var options = inject.Options{Image: "registry.example/hyvve-sidecar:1", VaultAddress: "https://vault.vault:8200"}

func handler(t testing.TB, o inject.Options) (Handler, *kit.Log) {
	var log kit.Log
	t.Cleanup(func() {
		if strings.Contains(log.String(), canary) {
			t.Errorf("the log quotes the pod: %s", log.String())
		}
	})
	logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return Handler{Options: o, Own: "hyvve", Log: logger, Metrics: NewMetrics(prometheus.NewRegistry()), Bounds: NewBounds()}, &log
}

func pod(annotations string) string {
	return `{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"api-","annotations":{` + annotations + `}},"spec":{"securityContext":{"runAsUser":1000},"containers":[{"name":"api","image":"api:1","env":[{"name":"X","value":"` + canary + `"}],"fromTheFuture":{"a":1}}],"serviceAccountName":"api"}}`
}

const wanted = `"hyvve.app/inject":"true","hyvve.app/workload":"api"`

func reviewOf(namespace, operation, resource, object string) string {
	return fmt.Sprintf(`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u-1","kind":{"group":"","version":"v1","kind":"Pod"},"resource":{"group":"","version":"v1","resource":%q},"requestKind":{"group":"","version":"v1","kind":"Pod"},"namespace":%q,"operation":%q,"userInfo":{"username":"somebody"},"object":%s,"oldObject":null,"dryRun":true}}`, resource, namespace, operation, object)
}

func post(h http.Handler, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, Path, body)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func answerTo(t testing.TB, h http.Handler, body string) *admissionv1.AdmissionResponse {
	t.Helper()
	w := post(h, strings.NewReader(body))
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &answer); w.Code != http.StatusOK || err != nil || answer.Response == nil {
		t.Fatalf("%d %s, %v", w.Code, w.Body, err)
	}
	if answer.Kind != "AdmissionReview" || answer.APIVersion != "admission.k8s.io/v1" || answer.Response.UID != "u-1" {
		t.Errorf("the answer is %s", w.Body)
	}
	return answer.Response
}

// What the pod's author should know goes with the answer.
func TestReviewWarns(t *testing.T) {
	h, _ := handler(t, options)
	body := reviewOf("apps", "CREATE", "pods", pod(wanted))
	if answer := answerTo(t, h, body); !answer.Allowed || len(answer.Warnings) != 1 || !strings.Contains(answer.Warnings[0], "apps/api") {
		t.Errorf("%+v", answer)
	}
	h.Options.PodReaders = []string{"apps/api"}
	if answer := answerTo(t, h, body); !answer.Allowed || len(answer.Warnings) > 0 {
		t.Errorf("%+v", answer)
	}
}

func TestReviews(t *testing.T) {
	for name, c := range map[string]struct {
		body    string
		result  string
		message string // of the refusal
	}{
		"injected":             {reviewOf("shop", "CREATE", "pods", pod(wanted)), resultInjected, ""},
		"no annotations":       {reviewOf("shop", "CREATE", "pods", pod(`"a":"b"`)), resultIgnored, ""},
		"own namespace":        {reviewOf("hyvve", "CREATE", "pods", pod(wanted)), resultIgnored, ""},
		"kube-system":          {reviewOf("kube-system", "CREATE", "pods", pod(wanted)), resultIgnored, ""},
		"update":               {reviewOf("shop", "UPDATE", "pods", pod(wanted)), resultIgnored, ""},
		"delete":               {reviewOf("shop", "DELETE", "pods", "null"), resultIgnored, ""},
		"connect":              {reviewOf("shop", "CONNECT", "pods", `{"kind":"PodExecOptions"}`), resultIgnored, ""},
		"another resource":     {reviewOf("shop", "CREATE", "secrets", `{"kind":"Secret"}`), resultIgnored, ""},
		"unknown annotation":   {reviewOf("shop", "CREATE", "pods", pod(wanted+`,"hyvve.app/worklod":"`+canary+`"`)), resultRefused, "hyvve.app/worklod"},
		"no pod":               {reviewOf("shop", "CREATE", "pods", `[]`), resultRefused, "no pod"},
		"no object":            {reviewOf("shop", "CREATE", "pods", `null`), resultIgnored, ""},
		"nothing in the place": {reviewOf("shop", "CREATE", "pods", `"x"`), resultRefused, "no pod"},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := handler(t, options)
			answer := answerTo(t, h, c.body)
			if got := testutil.ToFloat64(h.Metrics.reviews.WithLabelValues(c.result)); got != 1 {
				t.Errorf("%v reviews are counted as %s", got, c.result)
			}
			if answer.Allowed != (c.message == "") {
				t.Errorf("allowed is %v", answer.Allowed)
			}
			if (len(answer.Patch) > 0) != (c.result == resultInjected) {
				t.Errorf("patch %s", answer.Patch)
			}
			if c.message != "" && (answer.Result == nil || answer.Result.Code != http.StatusUnprocessableEntity || !strings.Contains(answer.Result.Message, c.message)) {
				t.Errorf("refused with %+v", answer.Result)
			}
		})
	}
}

// A patch lets be what this program does not know, and a second review of the same pod changes nothing.
func TestPatch(t *testing.T) {
	h, _ := handler(t, options)
	answer := answerTo(t, h, reviewOf("shop", "CREATE", "pods", pod(wanted)))
	if answer.PatchType == nil || *answer.PatchType != admissionv1.PatchTypeJSONPatch {
		t.Errorf("patch type %v", answer.PatchType)
	}
	patch, err := jsonpatch.DecodePatch(answer.Patch)
	if err != nil {
		t.Fatal(err)
	}
	injected, err := patch.Apply([]byte(pod(wanted)))
	if err != nil {
		t.Fatal(err)
	}
	var p corev1.Pod
	if err := json.Unmarshal(injected, &p); err != nil || len(p.Spec.InitContainers) == 0 || !bytes.Contains(injected, []byte(`"fromTheFuture":{"a":1}`)) {
		t.Errorf("%v: %s", err, injected)
	}
	if again := answerTo(t, h, reviewOf("shop", "CREATE", "pods", string(injected))); !again.Allowed || len(again.Patch) > 0 && string(again.Patch) != "[]" {
		t.Errorf("a second review: %+v, %s", again, again.Patch)
	}
}

func TestWhatIsNoReview(t *testing.T) {
	h, _ := handler(t, options)
	good := reviewOf("shop", "CREATE", "pods", pod(wanted))
	for name, c := range map[string]struct {
		method, kind string
		body         io.Reader
		status       int
	}{
		"GET":              {http.MethodGet, "application/json", http.NoBody, http.StatusMethodNotAllowed},
		"no content type":  {http.MethodPost, "", strings.NewReader(good), http.StatusUnsupportedMediaType},
		"protobuf":         {http.MethodPost, "application/vnd.kubernetes.protobuf", strings.NewReader(good), http.StatusUnsupportedMediaType},
		"nothing":          {http.MethodPost, "application/json", http.NoBody, http.StatusBadRequest},
		"half of one":      {http.MethodPost, "application/json", strings.NewReader(good[:len(good)/2]), http.StatusBadRequest},
		"no request":       {http.MethodPost, "application/json", strings.NewReader(`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}`), http.StatusBadRequest},
		"another version":  {http.MethodPost, "application/json", strings.NewReader(strings.Replace(good, "k8s.io/v1", "k8s.io/v1beta1", 1)), http.StatusBadRequest},
		"no uid":           {http.MethodPost, "application/json", strings.NewReader(strings.Replace(good, `"u-1"`, `""`, 1)), http.StatusBadRequest},
		"a big one":        {http.MethodPost, "application/json", io.LimitReader(endless{}, maxBody+1), http.StatusRequestEntityTooLarge},
		"broken off":       {http.MethodPost, "application/json", io.MultiReader(strings.NewReader(good[:100]), broken{}), http.StatusBadRequest},
		"with a charset":   {http.MethodPost, "application/json; charset=utf-8", strings.NewReader(good), http.StatusOK},
		"what was no JSON": {http.MethodPost, "application/json", strings.NewReader(canary), http.StatusBadRequest},
	} {
		r := httptest.NewRequest(c.method, Path, c.body)
		r.Header.Set("Content-Type", c.kind)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.status || strings.Contains(w.Body.String(), canary) && w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if got := testutil.ToFloat64(h.Metrics.reviews.WithLabelValues(resultMalformed)); got != 11 {
		t.Errorf("%v are counted as malformed", got)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, strings.Repeat(" ", len(p))), nil }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A mistake of ours refuses one pod, with no word of it in the log, and not all that are under way.
func TestPanic(t *testing.T) {
	h, log := handler(t, options)
	h.Metrics = &Metrics{reviews: h.Metrics.reviews, duration: h.Metrics.duration}
	for _, fault := range []any{canary, fmt.Errorf("%s", canary)} {
		if got := faultOf(fault); strings.Contains(got, canary) {
			t.Errorf("%T is told as %s", fault, got)
		}
	}
	func() {
		defer func() {
			if got := faultOf(recover()); !strings.Contains(got, "out of range") {
				t.Errorf("the runtime's fault is told as %s", got)
			}
		}()
		t.Error(os.Args[len(os.Args):][0])
	}()
	answer := answerTo(t, panicking{h}, reviewOf("shop", "CREATE", "pods", pod(wanted)))
	if answer.Allowed || answer.Result.Code != http.StatusInternalServerError || !strings.Contains(log.String(), "a mistake in the injector") {
		t.Errorf("%+v, %s", answer, log)
	}
}

// panicking lets the first thing that is logged of a review panic.
type panicking struct{ h Handler }

func (p panicking) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.h.Log = slog.New(&faulty{Handler: p.h.Log.Handler()})
	p.h.ServeHTTP(w, r)
}

type faulty struct {
	slog.Handler
	done bool
}

func (f *faulty) Enabled(_ context.Context, level slog.Level) bool {
	if !f.done && level == slog.LevelDebug {
		f.done = true
		panic(canary)
	}
	return true
}

func FuzzReview(f *testing.F) {
	h, _ := handler(f, options)
	for _, annotations := range []string{wanted, `"a":"b"`, wanted + `,"hyvve.app/render":"dotenv"`, wanted + `,"hyvve.app/x":"y"`} {
		f.Add([]byte(reviewOf("shop", "CREATE", "pods", pod(annotations))))
	}
	f.Add([]byte(reviewOf("shop", "DELETE", "pods", "null")))
	f.Add([]byte(reviewOf("", "CREATE", "pods", `{"metadata":{"annotations":{"hyvve.app/inject":"true"}}}`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		w := post(h, bytes.NewReader(body))
		switch w.Code {
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			return
		case http.StatusOK:
		default:
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		var answer admissionv1.AdmissionReview
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Response == nil || answer.Response.UID == "" {
			t.Fatalf("%v: %s", err, w.Body)
		}
		if r := answer.Response; !r.Allowed && (r.Result == nil || r.Result.Message == "" || r.Result.Code != http.StatusUnprocessableEntity) {
			t.Fatalf("refused without a reason, or by a fault: %s", w.Body)
		}
		if len(answer.Response.Patch) > 0 {
			var got review
			patch, err := jsonpatch.DecodePatch(answer.Response.Patch)
			if err != nil || json.Unmarshal(body, &got) != nil {
				t.Fatalf("%v: %s", err, answer.Response.Patch)
			}
			if _, err := patch.Apply(got.Request.Object); err != nil {
				t.Fatalf("the patch does not apply: %v", err)
			}
		}
	})
}
