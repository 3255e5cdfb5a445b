// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject/certs"
)

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
