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
	"sync"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	kjson "sigs.k8s.io/json"
)

const (
	mostBody = 7 << 20 // two objects of the 3 MB that an API server takes, and a megabyte around them, as controller-runtime has it
	keptBody = 1 << 20 // larger buffers are not kept
)

// review is what is needed of an admissionv1.AdmissionReview. The objects in it are not parsed with it: whoever is not
// created, or is no pod, is let by.
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

// ServeHTTP answers one review. controller-runtime's Webhook would do, but scans each body five times, and the larger part of
// it is what is scanned then once more.
func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := buffers.Get().(*bytes.Buffer)
	body.Reset()
	defer func() {
		if body.Cap() <= keptBody {
			buffers.Put(body)
		}
	}()
	request, code, err := read(w, r, body)
	if err != nil {
		h.Metrics.malformed()
		h.Log.Warn("what came is no review", "error", err, "from", r.RemoteAddr)
		http.Error(w, err.Error(), code)
		return
	}
	answer := h.Handle(r.Context(), request)
	if err := answer.Complete(request); err != nil {
		answer = refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError, "the patch cannot be written as JSON")
		answer.UID = request.UID
	}
	body.Reset() // nothing of the request is needed any more
	encoder := json.NewEncoder(body)
	if err := encoder.Encode(answered{metav1.TypeMeta{APIVersion: reviewVersion, Kind: "AdmissionReview"}, &answer.AdmissionResponse}); err != nil {
		http.Error(w, "the answer cannot be written as JSON", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body.Bytes()) // whoever is gone needs no answer
}

// read reads a review into a buffer, from which the request is taken. Errors quote nothing of it.
func read(w http.ResponseWriter, r *http.Request, into *bytes.Buffer) (admission.Request, int, error) {
	var none admission.Request
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return none, http.StatusMethodNotAllowed, fmt.Errorf("a review comes by POST, not %s", r.Method)
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return none, http.StatusUnsupportedMediaType, errors.New("a review is application/json")
	}
	if r.ContentLength > 0 && r.ContentLength <= keptBody {
		into.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	if _, err := io.Copy(into, http.MaxBytesReader(w, r.Body, mostBody)); err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return none, http.StatusRequestEntityTooLarge, fmt.Errorf("a review of more than %d bytes is not read", mostBody)
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
	return admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		UID: q.UID, Resource: q.Resource, SubResource: q.SubResource, Namespace: q.Namespace, Operation: q.Operation,
		Object: runtime.RawExtension{Raw: q.Object},
	}}, 0, nil
}
