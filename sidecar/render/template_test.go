// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

func parsed(t *testing.T, text string, keys ...string) *TextTemplate {
	t.Helper()
	parsed, err := NewTemplate("x.tmpl", text, keys)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// held is a bundle with a key that is verified in two versions, one that is verified in one, and one that is presented.
func held() client.Bundle {
	b := bundle(map[string]string{"METRICS_API_KEY": "canary+new/1=", "DATABASE_URL": "postgresql://u:canary@h/db?a=b&c=it's"})
	b.Accepts = map[string][]key.Value{
		"METRICS_API_KEY": {key.NewValue("canary+new/1="), key.NewValue("canary-old")}, "JWT_SECRET": {key.NewValue("canary-jwt")},
	}
	b.Versions, b.AcceptVersions = map[string]int{"METRICS_API_KEY": 7, "DATABASE_URL": 3}, map[string][]int{"METRICS_API_KEY": {7, 6}, "JWT_SECRET": {2}}
	return b
}

func TestTemplateFunctions(t *testing.T) {
	for text, want := range map[string]string{
		`{{ value "METRICS_API_KEY" }}`:                                                                    "canary+new/1=",
		`{{ value "JWT_SECRET" }}`:                                                                         "canary-jwt",
		`{{ previous "METRICS_API_KEY" }}`:                                                                 "canary-old",
		`{{ with previous "JWT_SECRET" }}old: {{ . }}{{ else }}none{{ end }}`:                              "none",
		`{{ range $n, $v := accepts "METRICS_API_KEY" }}{{ if $n }},{{ end }}{{ $v }}{{ end }}`:            "canary+new/1=,canary-old",
		`{{ join (accepts "METRICS_API_KEY") " " }}`:                                                       "canary+new/1= canary-old",
		`{{ version "METRICS_API_KEY" }} {{ version "JWT_SECRET" }} {{ etag }}`:                            "7 2 e1",
		`{{ if has "NOBODY" }}{{ value "NOBODY" }}{{ else }}-{{ end }}{{ if has "JWT_SECRET" }}+{{ end }}`: "-+",
		`{{ json (printf "Bearer %s" (value "METRICS_API_KEY")) }}`:                                        `"Bearer canary+new/1="`,
		`{{ accepts "METRICS_API_KEY" | json }}`:                                                           `["canary+new/1=","canary-old"]`,
		`{{ value "DATABASE_URL" | sh }}`:                                                                  `'postgresql://u:canary@h/db?a=b&c=it'\''s'`,
		`{{ value "METRICS_API_KEY" | urlquery }}`:                                                         "canary%2Bnew%2F1%3D",
		`{{ value "JWT_SECRET" | base64 }}`:                                                                base64.StdEncoding.EncodeToString([]byte("canary-jwt")),
		`{{ define "x" }}{{ value "JWT_SECRET" }}{{ end }}{{ template "x" }}`:                              "canary-jwt",
		``: "",
	} {
		target := Target{Format: Template, Path: filepath.Join(t.TempDir(), "out"), Mode: 0o600, UID: -1, GID: -1, Template: parsed(t, text)}
		if changed, err := target.Write(held()); err != nil || !changed {
			t.Errorf("%s: changed %v, %v", text, changed, err)
		}
		if data, err := os.ReadFile(target.Path); err != nil || string(data) != want {
			t.Errorf("%s gives %q (%v), want %q", text, data, err, want)
		}
	}
}

// What is wrong with a template is known when it is read, with file, line and what to write instead.
func TestMistakesInTemplates(t *testing.T) {
	for text, want := range map[string]string{
		"a\nb {{ valu \"X\" }}":                                       `x.tmpl:2: function "valu" not defined`,
		"{{ value \"X\" ":                                             "x.tmpl:1: unclosed action",
		"\n\n{{ value \"metrics-api-key\" }}":                         `x.tmpl:3:3: value: env "metrics-api-key" is not an environment name`,
		"{{ value }}":                                                 `x.tmpl:1:3: value takes the name of one key, in quotes, such as (value "METRICS_API_KEY")`,
		`{{ "X" | value }}`:                                           "value takes the name of one key",
		`{{ value (value "KEPT") }}`:                                  "value takes the name of one key",
		`{{ json value }}`:                                            "value takes the name of one key",
		`{{ $x := "X" }}{{ accepts $x }}`:                             "accepts takes the name of one key",
		`{{ if has "OTHER" }}{{ end }}`:                               "has: OTHER is not among keys of the render block",
		`{{ range accepts "OTHER" }}{{ end }}`:                        "accepts: OTHER is not among keys",
		`{{ with 1 }}{{ else }}{{ version "O" }}{{ end }}`:            "version: O is not among keys",
		`{{ (previous "OTHER").X }}`:                                  "previous: OTHER is not among keys",
		`{{ define "x" }}{{ value "OTHER" }}{{ end }}`:                "value: OTHER is not among keys",
		`{{ template "x" (value "OTHER") }}{{ define "x" }}{{ end }}`: "value: OTHER is not among keys",
	} {
		if _, err := NewTemplate("x.tmpl", text, []string{"KEPT", "X"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// An error while a template is filled in names file and line, and never holds a value, whole or in part.
func TestTemplateErrorsHoldNoValue(t *testing.T) {
	for text, want := range map[string]string{
		"a\n{{ value \"METRIC_API_KEY\" }}":                       `x.tmpl:2:3: the bundle has no key METRIC_API_KEY; did you mean "METRICS_API_KEY"? (it has DATABASE_URL, JWT_SECRET, METRICS_API_KEY)`,
		`{{ accepts "DATABASE_URL" }}`:                            "x.tmpl:1:3: DATABASE_URL is not verified by this workload",
		`{{ previous "DATABASE_URL" }}`:                           "DATABASE_URL is not verified by this workload",
		`{{ version "NOBODY" }}`:                                  "the bundle has no key NOBODY",
		`{{ range value "JWT_SECRET" }}{{ end }}`:                 `x.tmpl:1:15: <"JWT_SECRET"> what it is given is not what`,
		`{{ range base64 (value "JWT_SECRET") }}{{ end }}`:        "what it is given is not what",
		`{{ (value "JWT_SECRET").Name }}`:                         "can't evaluate field Name in type string",
		`{{ index (value "JWT_SECRET") "x" }}`:                    "x.tmpl:1:",
		`{{ index (accepts "JWT_SECRET") (value "JWT_SECRET") }}`: "error calling index: cannot index slice/array with type string",
		`{{ index (accepts "JWT_SECRET") 4 }}`:                    "error calling index: ",
		`{{ slice (value "JWT_SECRET") 1 99 }}`:                   "error calling slice: ",
		`{{ lt (value "JWT_SECRET") 4 }}`:                         "error calling lt: incompatible types",
		`{{ eq (accepts "JWT_SECRET") (accepts "JWT_SECRET") }}`:  `<eq (accepts "JWT_SECRET") (accepts "JWT_SECRET")> what it is given is not what`,
		`{{ ne (accepts "JWT_SECRET") (accepts "JWT_SECRET") }}`:  "what it is given is not what",
		`{{ eq (value "JWT_SECRET") 4 }}`:                         "error calling eq: incompatible types for comparison",
		`{{ call (value "JWT_SECRET") }}`:                         "x.tmpl:1:",
		`{{ json }}`:                                              "wrong number of args for json",
		`{{ .X }}`:                                                "x.tmpl:1:",
		`{{ template "nowhere" }}`:                                "x.tmpl:1:",
		`{{ range 3000000 }}{{ value "JWT_SECRET" }}{{ end }}`:    "the template writes more than 1048576 bytes",
		`{{ define "x" }}{{ value "NOBODY" }}{{ end }}
{{ template "x" }}`: "x.tmpl:1:19: the bundle has no key NOBODY",
	} {
		target := Target{Format: Template, Path: filepath.Join(t.TempDir(), "out"), Mode: 0o600, UID: -1, GID: -1, Template: parsed(t, text)}
		_, err := target.Write(held())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
			continue
		}
		for _, secret := range []string{"canary", base64.StdEncoding.EncodeToString([]byte("canary"))[:6]} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error holds a value: %v", text, err)
			}
		}
		if _, err := os.Lstat(target.Path); err == nil {
			t.Errorf("%s: a file was written", text)
		}
	}
}

// What docs/templates.md shows is a template that works.
func TestDocumentedTemplate(t *testing.T) {
	docs, err := os.ReadFile("../../docs/templates.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(docs), "# /etc/hyvve/datasource.yaml.tmpl\n")
	text, _, ended := strings.Cut(text, "```")
	if !found || !ended {
		t.Fatal("the docs show no template")
	}
	target := Target{Format: Template, Path: filepath.Join(t.TempDir(), "out"), Mode: 0o600, UID: -1, GID: -1, Template: parsed(t, text)}
	if _, err := target.Write(held()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(target.Path)
	if want := `secureJsonData: { httpHeaderValue1: "Bearer canary+new/1=" }` + "\n"; err != nil || !strings.HasSuffix(string(data), want) {
		t.Errorf("it gives %s, %v", data, err)
	}
}
