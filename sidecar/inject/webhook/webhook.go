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

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject/certs"
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
	patch, warnings, err := h.Options.Review(r.Object.Raw, r.Namespace)
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
	answer.PatchType, answer.Warnings = &kind, warnings
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

// Results of reviews.
const (
	resultInjected  = "injected"
	resultIgnored   = "ignored"
	resultRefused   = "refused"
	resultMalformed = "malformed" // no review at all
	resultFailed    = "failed"
	resultBusy      = "busy" // not looked at: others were under way
)

// Metrics count reviews.
type Metrics struct {
	reviews  *prometheus.CounterVec
	duration prometheus.Histogram
}

// NewMetrics makes and registers those of the webhook.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		reviews: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hyvve_injector_reviews_total", Help: "Admission reviews, by what came of them.",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "hyvve_injector_review_duration_seconds", Help: "How long reviews took, once read.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 10},
		}),
	}
	for _, result := range []string{resultInjected, resultIgnored, resultRefused, resultMalformed, resultFailed, resultBusy} {
		m.reviews.WithLabelValues(result)
	}
	registry.MustRegister(m.reviews, m.duration)
	return m
}

func (m *Metrics) reviewed(result string, took time.Duration) {
	m.reviews.WithLabelValues(result).Inc()
	m.duration.Observe(took.Seconds())
}

func (m *Metrics) busy() { m.reviews.WithLabelValues(resultBusy).Inc() }

func (m *Metrics) refused() { m.reviews.WithLabelValues(resultRefused).Inc() }

func (m *Metrics) malformed() { m.reviews.WithLabelValues(resultMalformed).Inc() }

// registerState lets metrics tell of certificates and readiness when they are asked for.
func registerState(registry prometheus.Registerer, source certs.Source, ready func() error) {
	status := func() certs.Status { return source.Status(time.Now()) }
	at := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return float64(t.Unix())
	}
	is := func(so bool) float64 {
		if so {
			return 1
		}
		return 0
	}
	for _, g := range []struct {
		name, help string
		value      func() float64
	}{
		{"ready", "Whether API servers can be answered.", func() float64 { return is(ready() == nil) }},
		{"leader", "Whether this replica makes the certificates.", func() float64 { return is(status().Leading) }},
		{"certificate_expiry_timestamp_seconds", "When the serving certificate ends; 0: there is none.", func() float64 { return at(status().Expires) }},
		{"ca_expiry_timestamp_seconds", "When the newest authority of our own ends; 0: there is none.", func() float64 { return at(status().CAExpires) }},
		{"ca_generation", "Number of the newest authority of our own; 0: there is none.", func() float64 { return float64(status().Generation) }},
		{"ca_authorities", "How many authorities of our own caBundle should hold.", func() float64 { return float64(status().Authorities) }},
	} {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "hyvve_injector_" + g.name, Help: g.help}, g.value))
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "hyvve_injector_info", Help: "1.", ConstLabels: prometheus.Labels{"version": version.Version},
	})
	info.Set(1)
	registry.MustRegister(info)
}
