// SPDX-License-Identifier: Apache-2.0

// Package webhook answers the API server's admission reviews of pods, by what package inject makes of them.
package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject"
)

// Path is where reviews are answered.
const Path = "/inject"

// system is the namespace of Kubernetes' own parts, which is never touched.
const system = "kube-system"

// Handler answers reviews of pods with the patch that injects the sidecar.
type Handler struct {
	Options inject.Options
	Own     string // namespace of the injector itself, whose pods are never touched: they would wait for themselves
	Log     *slog.Logger
	Metrics *Metrics
	Bounds  *Bounds
}

var _ http.Handler = Handler{}

// handle answers a request. It refuses a pod that cannot be injected as it asks, with a text for the pod's author. The log has no such
// text, since it may quote from the pod.
func (h Handler) handle(r *admissionv1.AdmissionRequest) (answer *admissionv1.AdmissionResponse) {
	begun, result := time.Now(), resultFailed
	defer func() {
		if fault := recover(); fault != nil {
			h.Log.Error("a review failed; this is a mistake in the injector", "namespace", r.Namespace, "uid", r.UID, "fault", faultOf(fault), "stack", string(debug.Stack()))
			answer = refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError, "the injector has failed; its log says where")
		}
		h.Metrics.reviewed(result, time.Since(begun))
	}()
	if r.Operation != admissionv1.Create || r.Resource.Group != "" || r.Resource.Resource != "pods" || r.SubResource != "" {
		result = resultIgnored
		return allow()
	}
	if slices.Contains([]string{h.Own, system}, r.Namespace) {
		result = resultIgnored
		return allow()
	}
	patch, err := h.Options.Patch(r.Object.Raw, r.Namespace)
	switch {
	case errors.Is(err, inject.ErrNotWanted):
		result = resultIgnored
		return allow()
	case err != nil:
		result = resultRefused
		h.Log.Info("pod refused", "namespace", r.Namespace, "uid", r.UID)
		return refuse(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, err.Error())
	}
	result = resultInjected
	h.Log.Debug("pod injected", "namespace", r.Namespace, "uid", r.UID, "operations", len(patch))
	if len(patch) == 0 {
		return allow()
	}
	answer, kind := allow(), admissionv1.PatchTypeJSONPatch
	answer.PatchType = &kind
	if answer.Patch, err = json.Marshal(patch); err != nil {
		return refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError, "the patch cannot be written as JSON")
	}
	return answer
}

func allow() *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true, Result: &metav1.Status{Code: http.StatusOK}}
}

// faultOf says what kind a panic was of. Of its own text only what the runtime says is free of what the pod holds.
func faultOf(fault any) string {
	if err, ok := fault.(interface {
		error
		RuntimeError()
	}); ok {
		return err.Error()
	}
	return fmt.Sprintf("%T", fault)
}

func refuse(code int32, reason metav1.StatusReason, message string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{
		Result: &metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message},
	}
}
