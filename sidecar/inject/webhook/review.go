// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"sync"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject"
)

// review is the part of an admissionv1.AdmissionReview that the webhook needs. Its objects are not parsed here: requests that
// do not create anything, or that are about no pod, are allowed as they are.
type review struct {
	metav1.TypeMeta `json:",inline"`
	Request         *struct {
		UID         types.UID                   `json:"uid"`
		Resource    metav1.GroupVersionResource `json:"resource"`
		SubResource string                      `json:"subResource"`
		Namespace   string                      `json:"namespace"`
		Operation   admissionv1.Operation       `json:"operation"`
		Object      json.RawMessage             `json:"object"`
	} `json:"request"`
}

// answered is an admissionv1.AdmissionReview without a request.
type answered struct {
	metav1.TypeMeta `json:",inline"`
	Response        *admissionv1.AdmissionResponse `json:"response"`
}

var (
	reviewVersion = admissionv1.SchemeGroupVersion.String()
	buffers       = sync.Pool{New: func() any { return new(bytes.Buffer) }}
)

// ServeHTTP answers one review. The Webhook of controller-runtime scans each body five times, and links all clients of Kubernetes, by
// which the program is a third larger.
func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	share, ok := h.Bounds.body(w, r)
	if !ok {
		h.busy(w)
		return
	}
	defer share.Return()
	body := buffers.Get().(*bytes.Buffer)
	body.Reset()
	defer func() {
		if body.Cap() <= keptBody {
			buffers.Put(body)
		}
	}()
	request, code, err := read(w, r, body)
	if !share.Keep() {
		h.busy(w)
		return
	}
	switch {
	case err == nil:
	case request.UID == "":
		h.Metrics.malformed()
		if h.Bounds.tell() {
			h.Log.Warn("what came is no review", "error", err, "from", r.RemoteAddr)
		}
		http.Error(w, err.Error(), code)
		return
	default:
		h.Metrics.refused()
		h.Log.Info("pod refused unread", "uid", request.UID, "bytes", r.ContentLength)
	}
	answer := refuse(http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge, fmt.Sprint(err))
	if err == nil {
		var made bool
		if answer, made = h.make(r, request); !made {
			h.busy(w)
			return
		}
	}
	answer.UID = request.UID
	body.Reset() // nothing of the request is needed any more
	encoder := json.NewEncoder(body)
	if err := encoder.Encode(answered{metav1.TypeMeta{APIVersion: reviewVersion, Kind: "AdmissionReview"}, answer}); err != nil {
		http.Error(w, "the answer cannot be written as JSON", http.StatusInternalServerError)
		return
	}
	share.Wait(int64(max(body.Cap(), leastBody))) // until the client has taken it
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body.Bytes()) // a client that has disconnected needs no answer
}

// make makes the answer once it is this review's turn, and reports whether it came to that.
func (h Handler) make(r *http.Request, request *admissionv1.AdmissionRequest) (answer *admissionv1.AdmissionResponse, made bool) {
	cost, err := inject.Measure(request.Object.Raw)
	if err != nil {
		h.Metrics.refused()
		h.Log.Info("pod refused unread", "namespace", request.Namespace, "uid", request.UID)
		return refuse(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, err.Error()), true
	}
	leave, ok := h.Bounds.enter(r.Context(), cost)
	if !ok {
		return answer, false
	}
	defer leave()
	return h.handle(request), true
}

// busy sends a review away. An API server asks again after the second (client-go, rest/with_retry.go), by another connection, and
// so perhaps another replica. If it is out of time then, failurePolicy decides, as for a replica that does not answer.
func (h Handler) busy(w http.ResponseWriter) {
	h.Metrics.busy()
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Connection", "close")
	http.Error(w, "the injector has too many reviews under way; ask again", http.StatusTooManyRequests)
}

// read reads a review into a buffer, from which the request is taken. Errors quote nothing of it. With an error, the request has the
// UID if the review is too large and could be refused for that.
func read(w http.ResponseWriter, r *http.Request, into *bytes.Buffer) (*admissionv1.AdmissionRequest, int, error) {
	none := &admissionv1.AdmissionRequest{}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return none, http.StatusMethodNotAllowed, fmt.Errorf("a review comes by POST, not %s", r.Method)
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return none, http.StatusUnsupportedMediaType, errors.New("a review is application/json")
	}
	most := int64(maxBody)
	switch {
	case r.ContentLength > maxBody:
		most = leastBody
	case r.ContentLength < 0:
		into.Grow(maxBody + bytes.MinRead) // as counted, instead of by doubling
	default:
		into.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	if _, err := io.Copy(into, http.MaxBytesReader(w, r.Body, most)); err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			none.UID = uidOf(into.Bytes())
			return none, http.StatusRequestEntityTooLarge, fmt.Errorf("a review of more than %d bytes is not read, and no pod of that size can be stored; let the pod be smaller", maxBody)
		}
		return none, http.StatusBadRequest, errors.New("the body was not read to its end")
	}
	var got review
	if err := kjson.UnmarshalCaseSensitivePreserveInts(into.Bytes(), &got); err != nil {
		return none, http.StatusBadRequest, errors.New("the body is no AdmissionReview in JSON")
	}
	if got.Kind != "AdmissionReview" || got.APIVersion != reviewVersion || got.Request == nil || got.Request.UID == "" {
		return none, http.StatusBadRequest, fmt.Errorf("the body is no AdmissionReview of %s with a request and its uid", reviewVersion)
	}
	q := got.Request
	return &admissionv1.AdmissionRequest{
		UID: q.UID, Resource: q.Resource, SubResource: q.SubResource, Namespace: q.Namespace, Operation: q.Operation,
		Object: runtime.RawExtension{Raw: q.Object},
	}, 0, nil
}

// uidForm is how a review begins as API servers write it: its UID stands before all that can be large.
var uidForm = regexp.MustCompile(`^\s*\{[^{}\[\]]*"request"\s*:\s*\{\s*"uid"\s*:\s*"([0-9A-Za-z-]{1,64})"`)

// uidOf finds request.uid in the beginning of a review. Empty: it is not there.
func uidOf(head []byte) types.UID {
	if found := uidForm.FindSubmatch(head[:min(len(head), leastBody)]); found != nil {
		return types.UID(found[1])
	}
	return ""
}
