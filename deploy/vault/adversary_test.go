// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// peopled is a Vault with the shipped policies of people, and a token of each.
func peopled(t *testing.T) (w *world, as map[string]*api.Client) {
	t.Helper()
	v, err := bed.ForTest(t).Vault(t.Context(), bed.VaultOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w = &world{t: t, vault: v, dir: t.TempDir()}
	as = map[string]*api.Client{}
	for _, name := range people {
		policy, err := os.ReadFile("policies/" + name + ".hcl")
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Client.Sys().PutPolicyWithContext(t.Context(), "hyvve-"+name, string(policy)); err != nil {
			t.Fatal(err)
		}
		as[name] = w.as(w.write("auth/token/create", map[string]any{"policies": []string{"hyvve-" + name}, "display_name": name}).Auth.ClientToken)
	}
	return w, as
}

// try makes a request, and reports whether Vault's policies let it through to the engine.
func (w *world) try(c *api.Client, method, path string, data map[string]any) bool {
	w.t.Helper()
	var err error
	ctx := w.t.Context()
	switch method {
	case "read":
		_, err = c.Logical().ReadWithContext(ctx, path)
	case "list":
		_, err = c.Logical().ListWithContext(ctx, path)
	case "delete":
		_, err = c.Logical().DeleteWithContext(ctx, path)
	default:
		_, err = c.Logical().WriteWithContext(ctx, path, data)
	}
	refused := (*api.ResponseError)(nil)
	if errors.As(err, &refused) {
		return refused.StatusCode != 403
	}
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return true
}

// Each policy of people is enough for its job, and lets nothing through that is another's.
func TestAdversaryPeopleDoOthersJobs(t *testing.T) {
	w, as := peopled(t)
	w.write("hyvve/keys/jwt-secret", map[string]any{"format": "hex", "length": 32, "generate": true})
	w.write("hyvve/workloads/api", map[string]any{"presents": "jwt-secret", "min_instances": 0})
	look := []string{"viewer", "operator"}
	define := []string{"definer", "operator"}
	rotate := []string{"rotator", "operator"}
	value := map[string]any{"key": "jwt-secret", "value": strings.Repeat("ab", 32)}
	for _, c := range []struct {
		method, path string
		data         map[string]any
		may          []string
	}{
		{"read", "hyvve/status", nil, look},
		{"read", "hyvve/metrics", nil, append(look, "monitor")},
		{"list", "hyvve/rotations", nil, append(look, "auditor")},
		{"read", "hyvve/rotations/x", nil, look},
		{"read", "hyvve/rotations/x/receipt", nil, append(look, "auditor")},
		{"list", "hyvve/workloads", nil, append(look, "definer")},
		{"read", "hyvve/workloads/api", nil, append(look, "definer")},
		{"list", "hyvve/journal", nil, append(look, "auditor")},
		{"read", "hyvve/journal", nil, append(look, "auditor")},
		{"read", "hyvve/journal/verify", nil, append(look, "auditor")},
		{"read", "hyvve/journal/config", nil, append(look, "auditor")},
		{"write", "hyvve/journal/config", map[string]any{"min_age": "2h"}, []string{"auditor"}},
		{"write", "hyvve/config", map[string]any{"journal_max_age": "1s"}, define}, // which the engine refuses
		{"list", "hyvve/keys", nil, append(define, "viewer", "restorer")},
		{"read", "hyvve/keys/jwt-secret", nil, append(define, "viewer", "restorer")},
		{"write", "hyvve/keys/jwt-secret", map[string]any{"soak": "1s"}, define},
		{"write", "hyvve/keys/jwt-secret/reconcile", nil, define},
		{"write", "hyvve/keys/jwt-secret/acknowledge", nil, define},
		{"delete", "hyvve/keys/nothing", nil, define},
		{"write", "hyvve/keys/jwt-secret/undelete", map[string]any{"version": 9}, []string{"restorer"}},
		{"write", "hyvve/keys/jwt-secret/retire", map[string]any{"version": 9}, []string{"restorer"}},
		{"write", "hyvve/identify", map[string]any{"value": "nobody's"}, []string{"identifier"}},
		{"write", "hyvve/keys/jwt-secret/erase", map[string]any{"version": 9}, define},
		{"write", "hyvve/workloads/api", map[string]any{"min_instances": 0}, define},
		{"delete", "hyvve/workloads/nothing", nil, define},
		{"list", "hyvve/workloads/api/instances", nil, append(look, "definer")},
		{"read", "hyvve/workloads/api/instances/x", nil, append(look, "definer")},
		{"delete", "hyvve/workloads/api/instances/x", nil, define},
		{"write", "hyvve/connections/x", map[string]any{"kind": "x"}, define},
		{"write", "hyvve/connections/x/rotate-root", nil, define},
		{"read", "hyvve/presets/hyvve", nil, define},
		{"write", "hyvve/rotate", map[string]any{"key": "nothing"}, rotate},
		{"write", "hyvve/rotate/nothing", nil, rotate},
		{"write", "hyvve/rotations/x/pause", nil, rotate},
		{"write", "hyvve/rotations/x/resume", nil, rotate},
		{"write", "hyvve/rotations/x/confirm", nil, rotate},
		{"write", "hyvve/rotations/x/revert", nil, rotate},
		{"write", "hyvve/rotations/x/compromised", nil, rotate},
		{"write", "hyvve/rotations/x/tune", map[string]any{"soak": "0s"}, rotate},
		{"write", "hyvve/rotations/x/accept-witness", map[string]any{"reason": "x"}, define},
		{"write", "hyvve/rotate", value, []string{"operator"}},
		{"write", "hyvve/rotate/jwt-secret", value, []string{"operator"}},
		{"read", "hyvve/creds/api", nil, nil},
		{"write", "hyvve/report/api", nil, nil},
		{"write", "sys/leases/revoke", map[string]any{"lease_id": "x"}, nil},
		{"write", "sys/policies/acl/x", map[string]any{"policy": ""}, nil},
	} {
		for _, name := range people {
			may := strings.Contains(fmt.Sprint(c.may), name)
			if got := w.try(as[name], c.method, c.path, c.data); got != may {
				t.Errorf("%s gets through to %s %s: %v", name, c.method, c.path, got)
			}
		}
	}
}

// A rotator brings in no value of its own, under whatever spelling.
func TestAdversaryRotatorBringsAValue(t *testing.T) {
	w, as := peopled(t)
	w.write("hyvve/keys/jwt-secret", map[string]any{"format": "hex", "length": 32, "generate": true})
	w.write("hyvve/workloads/api", map[string]any{"presents": "jwt-secret", "min_instances": 0})
	before := w.version()
	for _, path := range []string{"hyvve/rotate", "hyvve/rotate/", "hyvve/rotate/jwt-secret"} {
		for _, field := range []string{"value", "Value", "VALUE"} {
			data := map[string]any{field: strings.Repeat("ab", 32)}
			if !strings.HasSuffix(path, "secret") {
				data["key"] = "jwt-secret"
			}
			if _, err := as["rotator"].Logical().WriteWithContext(t.Context(), path, data); err == nil {
				t.Errorf("%s with %s= rotates", path, field)
			}
		}
	}
	if now := w.version(); now != before {
		t.Errorf("version %s became %s", before, now)
	}
	if _, err := as["rotator"].Logical().WriteWithContext(t.Context(), "hyvve/rotate", map[string]any{"key": "jwt-secret", "wait": "30s"}); err != nil {
		t.Errorf("without a value: %v", err)
	}
}

// A rotator does not say how long the old value is retained, so that it destroys none. Where somebody else may say so, the user who
// confirms sees it before and after.
func TestAdversaryRotatorErasesTheOldValue(t *testing.T) {
	w, as := peopled(t)
	w.write("sys/auth/userpass", map[string]any{"type": "userpass"})
	w.write("hyvve/keys/jwt-secret", map[string]any{"format": "hex", "length": 32, "generate": true, "soak": 0, "observe": 0, "confirm_by": "other"})
	w.write("hyvve/workloads/api", map[string]any{"presents": "jwt-secret", "min_instances": 0})
	ann, bob := w.user("ann", "operator")(), w.user("bob", "rotator", "viewer")()
	for _, path := range []string{"hyvve/rotate", "hyvve/rotate/", "hyvve/rotate/jwt-secret"} {
		for _, field := range []string{"retain", "Retain", "RETAIN"} {
			data := map[string]any{field: "0s"}
			if !strings.HasSuffix(path, "secret") {
				data["key"] = "jwt-secret"
			}
			for name, c := range map[string]*api.Client{"rotator": as["rotator"], "bob": bob} {
				if _, err := c.Logical().WriteWithContext(t.Context(), path, data); err == nil {
					t.Errorf("%s: %s with %s= rotates", name, path, field)
				}
			}
		}
	}
	secret, err := ann.Logical().WriteWithContext(t.Context(), "hyvve/rotate", map[string]any{"key": "jwt-secret", "retain": "0s"})
	if err != nil {
		t.Fatal(err)
	}
	const loss = "the value of version 1 is erased at the end, and not retained (retain=0s of this rotation)"
	id := secret.Data["id"].(string)
	w.waitsForAnother(id)
	seen := w.rotation(id)
	if gate := fmt.Sprint(seen["next_gate"]); !strings.Contains(gate, loss) || fmt.Sprint(seen["retain"]) != "0" {
		t.Errorf("who confirms reads %s, retain %v", gate, seen["retain"])
	}
	confirmed, err := bob.Logical().WriteWithContext(t.Context(), "hyvve/rotations/"+id+"/confirm", map[string]any{"detailed": true})
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(confirmed.Data["retention"]); !strings.Contains(text, "the value of version 1 is erased") {
		t.Errorf("the answer to confirm has %s", text)
	}
	w.ends(id, "done")
	if text := fmt.Sprint(w.rotation(id)["timeline"]); !strings.Contains(text, "done; JWT_SECRET: the value of version 1 is erased") {
		t.Errorf("the timeline is %s", text)
	}
}

// A retained value is in no answer to any user, and only a restorer brings it back.
func TestAdversaryReadsARetainedValue(t *testing.T) {
	w, as := peopled(t)
	ctx := t.Context()
	value := strings.Repeat("ab", 32)
	w.write("hyvve/keys/jwt-secret", map[string]any{"kind": "token", "format": "hex", "length": 32, "value": value, "soak": 0})
	w.write("hyvve/workloads/api", map[string]any{"verifies": "jwt-secret", "min_instances": 0})
	if _, err := as["rotator"].Logical().WriteWithContext(ctx, "hyvve/rotate", map[string]any{"key": "jwt-secret", "wait": "30s"}); err != nil {
		t.Fatal(err)
	}
	root := w.vault.Client
	answers := func() string {
		var all strings.Builder
		for _, c := range append([]*api.Client{root}, slices.Collect(maps.Values(as))...) {
			for _, path := range []string{"keys/jwt-secret", "status", "config", "workloads/api", "creds/api", "journal", "journal/export", "rotations"} {
				for _, query := range []map[string][]string{nil, {"detailed": {"true"}}} {
					if resp, err := c.Logical().ReadRawWithDataWithContext(ctx, "hyvve/"+path, query); err == nil {
						_, _ = io.Copy(&all, resp.Body)
						_ = resp.Body.Close()
					}
				}
			}
		}
		return all.String()
	}
	if text := answers(); strings.Contains(text, value) || !strings.Contains(text, `"state":"retained"`) {
		t.Errorf("the retained value is answered with: %v", strings.Contains(text, value))
	}
	for _, name := range people {
		_, err := as[name].Logical().WriteWithContext(ctx, "hyvve/keys/jwt-secret/undelete", map[string]any{"version": 1, "for": "1h", "reason": "locked out"})
		if (err == nil) != (name == "restorer") {
			t.Errorf("%s undeletes: %v", name, err)
		}
		if name == "restorer" {
			if text := answers(); !strings.Contains(text, value) {
				t.Error("an undeleted version is in no bundle")
			}
			if _, err := as[name].Logical().WriteWithContext(ctx, "hyvve/keys/jwt-secret/retire", map[string]any{"version": 1}); err != nil {
				t.Error(err)
			}
		}
	}
	if text := answers(); strings.Contains(text, value) || !strings.Contains(text, "undeleted version 1 of jwt-secret") || !strings.Contains(text, "retired version 1 of jwt-secret") {
		t.Error("the journal does not tell, or the value is in a bundle after its end")
	}
	if _, err := as["definer"].Logical().WriteWithContext(ctx, "hyvve/keys/jwt-secret/erase", map[string]any{"version": 1}); err != nil {
		t.Error(err)
	}
	if _, err := as["restorer"].Logical().WriteWithContext(ctx, "hyvve/keys/jwt-secret/undelete", map[string]any{"version": 1}); err == nil || !strings.Contains(err.Error(), "no version of it is retained") {
		t.Errorf("an erased version: %v", err)
	}
}

func (w *world) version() string {
	w.t.Helper()
	secret, err := w.vault.Client.Logical().ReadWithContext(w.t.Context(), "hyvve/keys/jwt-secret")
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprint(secret.Data["current_version"])
}

// An operator shortens the journal neither by the configuration nor by its floor; what was tried is in the journal.
func TestAdversaryOperatorShortensTheJournal(t *testing.T) {
	w, as := peopled(t)
	ctx := t.Context()
	for _, data := range []map[string]any{{"journal_max_age": "1s"}, {"journal_max_entries": 100}} {
		if _, err := as["operator"].Logical().WriteWithContext(ctx, "hyvve/config", data); err == nil || !strings.Contains(err.Error(), "an auditor may lower") {
			t.Errorf("%v: %v", data, err)
		}
	}
	if w.try(as["operator"], "write", "hyvve/journal/config", map[string]any{"min_age": "0s", "min_entries": 100}) {
		t.Error("an operator lowers the floor")
	}
	lines := w.export(as["viewer"])
	tried := 0
	for _, n := range lines {
		if n["what"] == "writing the configuration was refused" && strings.HasSuffix(fmt.Sprint(n["by"]), "operator") {
			tried++
		}
	}
	if tried != 2 {
		t.Errorf("%d attempts are in the journal: %v", tried, lines)
	}
	if _, err := as["auditor"].Logical().WriteWithContext(ctx, "hyvve/journal/config", map[string]any{"min_age": "2h"}); err != nil {
		t.Errorf("an auditor: %v", err)
	}
}

// export reads the journal as JSON lines, two at a time, over HTTP.
func (w *world) export(c *api.Client) []map[string]any {
	w.t.Helper()
	var all []map[string]any
	for after := ""; ; after = all[len(all)-1]["id"].(string) {
		resp, err := c.Logical().ReadRawWithDataWithContext(w.t.Context(), "hyvve/journal/export", map[string][]string{"after": {after}, "limit": {"2"}})
		if err != nil {
			w.t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			w.t.Fatal(err)
		}
		if kind := resp.Header.Get("Content-Type"); kind != "application/x-ndjson" {
			w.t.Fatalf("the content is %s", kind)
		}
		if len(body) == 0 {
			return all
		}
		for line := range bytes.Lines(body) {
			entry := map[string]any{}
			if err := json.Unmarshal(line, &entry); err != nil {
				w.t.Fatalf("%s: %v", line, err)
			}
			all = append(all, entry)
		}
	}
}
