// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// writer writes what is set of a block, and nothing else.
type writer struct{ body *hclwrite.Body }

func (w writer) text(name, value string) writer {
	if value != "" {
		w.body.SetAttributeValue(name, cty.StringVal(value))
	}
	return w
}

func (w writer) truth(name string, value bool) writer {
	if value {
		w.body.SetAttributeValue(name, cty.True)
	}
	return w
}

func (w writer) number(name string, value int) writer {
	if value > 0 {
		w.body.SetAttributeValue(name, cty.NumberIntVal(int64(value)))
	}
	return w
}

func (w writer) list(name string, values []string) writer {
	if len(values) > 0 {
		var all []cty.Value
		for _, v := range values {
			all = append(all, cty.StringVal(v))
		}
		w.body.SetAttributeValue(name, cty.ListVal(all))
	}
	return w
}

func (w writer) block(kind string, labels ...string) writer {
	return writer{w.body.AppendNewBlock(kind, labels).Body()}
}

// configuration is the text of a file in HCL.
func configuration(f config.File) string {
	known, err := json.Marshal(f)
	if err != nil { // which no value in it can bring about
		return write(f)
	}
	text, ok := written.get(string(known))
	if !ok {
		text = write(f)
		written.set(string(known), text)
	}
	return text
}

// write is what configuration gives, made again.
func write(f config.File) string {
	file := hclwrite.NewEmptyFile()
	w := writer{file.Body()}
	w.text("workload", f.Workload)
	vault := w.block("vault").text("address", f.Vault.Address).text("namespace", f.Vault.Namespace).text("mount", f.Vault.Mount).text("ca_cert", f.Vault.CACert).
		text("tls_server_name", f.Vault.ServerName)
	auth := f.Vault.Auth
	vault.block("auth", auth.Method).text("role", auth.Role).text("mount", auth.Mount).text("token_path", auth.TokenPath)
	for _, r := range f.Render {
		w.block("render", r.Format).text("path", r.Path).text("mode", r.Mode).list("keys", r.Keys).truth("accepts", r.Accepts).
			truth("previous", r.Previous).text("template", r.Template).truth("make_directory", r.MakeDirectory)
	}
	if r := f.Reload; r != nil {
		w.block("reload", r.Method).text("timeout", r.Timeout).text("process", r.Process).text("cmdline", r.Cmdline).text("signal", r.Signal).
			text("url", r.URL).text("method", r.HTTPMethod)
	}
	if e := f.Exec; e != nil {
		w.block("exec").list("keys", e.Keys).truth("accepts", e.Accepts).truth("previous", e.Previous).text("on_change", e.OnChange).
			text("signal", e.Signal).text("stop_signal", e.StopSignal).text("stop_timeout", e.StopTimeout).truth("overlap", e.Overlap)
	}
	for _, h := range f.Health {
		w.health(h)
	}
	for _, p := range f.Proxy {
		w.block("proxy").text("listen", p.Listen).text("upstream", p.Upstream).text("key", p.Key).text("header", p.Header).text("state", p.State).
			number("max_requests", p.MaxRequests)
	}
	if r := f.Reencrypt; r != nil {
		w.block("reencrypt").text("database_url_key", r.DatabaseURLKey).number("rows_per_second", r.RowsPerSecond).text("max_load", r.MaxLoad)
	}
	w.block("status").text("socket", f.Status.Socket).text("listen", f.Status.Listen).truth("end_unless_awaited", f.Status.EndUnlessAwaited)
	return string(file.Bytes())
}

func (w writer) health(h config.HealthBlock) {
	b := w.block("health", h.Method).text("url", h.URL).text("address", h.Address).truth("expect_etag", h.ExpectEtag).
		text("interval", h.Interval).text("deadline", h.Deadline).text("metric", h.Metric).text("window", h.Window)
	b.number("successes", h.Successes).number("failures", h.Failures)
	if h.MaxIncrease != nil {
		b.body.SetAttributeValue("max_increase", cty.NumberFloatVal(*h.MaxIncrease))
	}
	if len(h.Labels) > 0 {
		labels := map[string]cty.Value{}
		for _, name := range slices.Sorted(maps.Keys(h.Labels)) {
			labels[name] = cty.StringVal(h.Labels[name])
		}
		b.body.SetAttributeValue("labels", cty.MapVal(labels))
	}
}
