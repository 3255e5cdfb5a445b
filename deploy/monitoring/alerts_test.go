// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"os"
	"os/exec"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// Each alert fires for what it is made for, and for nothing beside it: alerts_test.yaml says when.
func TestAlertsFire(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), bed.Promtool(t), "test", "rules", "alerts_test.yaml").CombinedOutput()
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

// No alert is without a test in which it fires and one in which it does not.
func TestEachAlertIsTested(t *testing.T) {
	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert string `yaml:"alert"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	read(t, "alerts.yaml", &alerts)
	var tests struct {
		Tests []struct {
			Series []any `yaml:"input_series"`
			Rules  []struct {
				Alert  string `yaml:"alertname"`
				Expect []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	read(t, "alerts_test.yaml", &tests)
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, r := range test.Rules {
			fires[r.Alert] = fires[r.Alert] || len(r.Expect) > 0
			quiet[r.Alert] = quiet[r.Alert] || len(r.Expect) == 0 && len(test.Series) > 0
		}
	}
	n := 0
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			n++
			if !fires[r.Alert] || !quiet[r.Alert] {
				t.Errorf("alerts_test.yaml lacks a test of %s: fires %v, quiet %v", r.Alert, fires[r.Alert], quiet[r.Alert])
			}
		}
	}
	if n < 10 {
		t.Errorf("%d alerts were found", n)
	}
}

// read decodes a file of YAML.
func read(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}
