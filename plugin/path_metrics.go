// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"context"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

func (b *backend) pathsMetrics() []*framework.Path {
	return []*framework.Path{{
		Pattern: "metrics",
		Fields:  requestFields(api.MetricsRequest{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: b.operation(b.readMetrics, api.Metrics{}, "read", "metrics", "Read what monitoring should watch, as metrics."),
		},
		HelpSynopsis: "Keys, running rotations and what they wait for, workloads and connections, as metrics.",
		HelpDescription: strings.TrimSpace(`
One number for each metric and its labels. No label holds a value of a key, an address or the name of an instance. With
format=prometheus the response is the text that Prometheus scrapes, from the active node alone: a standby forwards the request.

    vault read hyvve/metrics
    curl -H "Authorization: Bearer $VAULT_TOKEN" "$VAULT_ADDR/v1/hyvve/metrics?format=prometheus"

The policy monitor allows this path and no other. docs/monitoring.md has the settings of Prometheus, the alerts and a dashboard.
`),
	}}
}

func (b *backend) readMetrics(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.MetricsRequest](d)
	if r.Format != "" && r.Format != "prometheus" {
		return nil, rotation.Refusef("format=%s is not known; use format=prometheus, or leave it out", kind.PublicText("format", r.Format))
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(engineMetrics{e}); err != nil {
		return nil, err
	}
	families, err := registry.Gather()
	if err != nil {
		return nil, err
	}
	if r.Format == "" {
		return &logical.Response{Data: metricLines(families)}, nil
	}
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	var body bytes.Buffer
	encoder := expfmt.NewEncoder(&body, format)
	for _, f := range families {
		if err := encoder.Encode(f); err != nil {
			return nil, err
		}
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPContentType: string(format), logical.HTTPRawBody: body.Bytes(), logical.HTTPStatusCode: http.StatusOK,
	}}, nil
}

// metricLines returns each number by its metric and labels, as Prometheus writes them.
func metricLines(families []*dto.MetricFamily) map[string]any {
	lines := map[string]any{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+`="`+l.GetValue()+`"`)
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			lines[name] = m.GetGauge().GetValue()
		}
	}
	return lines
}
