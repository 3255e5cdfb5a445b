// SPDX-License-Identifier: Apache-2.0

package helm_test

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject/webhook"
)

// plain returns a value as JSON has it, so that numbers and lists of both sources compare.
func plain(t *testing.T, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// The chart and the injector say the same of the webhook.
func TestWebhookIsTheInjectors(t *testing.T) {
	rendered := mustHelm(t, nil, "template", "hyvve", chart, "--namespace", "hyvve", "--set", vaultAddress)
	got := plain(t, find(t, rendered, "MutatingWebhookConfiguration")["webhooks"])
	want := plain(t, webhook.Configuration("hyvve-injector", "hyvve", "hyvve-injector").Webhooks)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the chart has\n%v\nand the injector\n%v", got, want)
	}
}

// The rights of the chart are those that the injector's own tests run with.
func TestRightsAreTheInjectors(t *testing.T) {
	rendered := mustHelm(t, nil, "template", "hyvve", chart, "--namespace", "hyvve", "--set", vaultAddress)
	wanted := documents(t, webhook.RBAC)
	if len(wanted) != 5 {
		t.Fatalf("%d objects in rbac.yaml", len(wanted))
	}
	for _, want := range wanted {
		kind, _ := want["kind"].(string)
		got := find(t, rendered, kind)
		if meta, ok := got["metadata"].(map[string]any); ok {
			delete(meta, "labels")
		}
		if !reflect.DeepEqual(plain(t, got), plain(t, want)) {
			t.Errorf("%s: the chart has\n%v\nand the injector needs\n%v", kind, got, want)
		}
	}
	for _, file := range []string{"secret", "cert-manager"} {
		text, err := os.ReadFile("testdata/golden/" + file + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "rbac.authorization.k8s.io") || !strings.Contains(string(text), "automountServiceAccountToken: false") {
			t.Errorf("%s: the injector has rights that it does not need", file)
		}
	}
}
