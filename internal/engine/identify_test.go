// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/issued"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// identify wants one answer.
func (h *harness) identify(text string) Identified {
	h.t.Helper()
	all, err := h.engine.Identify(h.t.Context(), key.NewValue(text), "in a chat", testActor)
	h.ok(err)
	if len(all) != 1 {
		h.t.Fatalf("%d answers: %+v", len(all), all)
	}
	return all[0]
}

// value is that of a version that has one.
func (h *harness) value(name string, number int) string {
	h.t.Helper()
	k, _ := h.engine.Key(name)
	v, _ := k.Version(number)
	if v.Value.Empty() {
		h.t.Fatalf("version %d of %s has no value", number, name)
	}
	return v.Value.Reveal()
}

// identifyAll identifies all values of a key, and returns the errors.
func (h *harness) identifyAll(name string) (err error) {
	h.t.Helper()
	k, _ := h.engine.Key(name)
	for _, v := range k.Versions {
		if v.Value.Empty() {
			continue
		}
		_, one := h.engine.Identify(h.t.Context(), v.Value, "", testActor)
		err = errors.Join(err, one)
	}
	return err
}

// A value is identified through its whole life and after it, when its version is forgotten and its key deleted.
func TestIdentifyThroughALife(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.retains("service-token", 24*time.Hour)
	one := h.value("service-token", 1)
	expect := func(text string, number int, state key.State, accepted bool, do string) Identified {
		t.Helper()
		got := h.identify(text)
		if got.Key != "service-token" || got.Number != number || got.State != state || got.Accepted != accepted || !strings.Contains(strings.Join(got.Do, "\n"), do) || do == "" && len(got.Do) > 0 {
			t.Errorf("%+v", got)
		}
		return got
	}
	got := expect(one, 1, key.Current, true, "vault write hyvve/rotate key=service-token compromised=true")
	if want := []string{"agents/agents-1", "agents/agents-2", "api/api-1", "api/api-2"}; !slices.Equal(got.Holders, want) {
		t.Errorf("holders %v, want %v", got.Holders, want)
	}

	id := h.rotate("service-token")
	two := h.value("service-token", 2)
	expect(two, 2, key.Staged, true, "vault write hyvve/rotations/"+id+"/compromised which=new")
	expect(one, 1, key.Current, true, "vault write hyvve/rotations/"+id+"/compromised which=old")
	h.until(id, rotation.Done)
	expect(one, 1, key.Retained, false, "")
	h.clock.advance(48 * time.Hour)
	h.rounds(3)
	expect(one, 1, key.Destroyed, false, "")

	h.open() // what is remembered is stored
	expect(one, 1, key.Destroyed, false, "")
	for name := range h.readers {
		delete(h.readers, name)
	}
	h.clock.advance(5 * time.Hour)
	h.rounds(3)
	for _, name := range []string{"agents", "api"} {
		h.ok(h.engine.DeleteWorkload(t.Context(), name, false, testActor))
	}
	h.ok(h.engine.DeleteKey(t.Context(), "service-token", testActor))
	if got := expect(two, 2, "", false, ""); !strings.Contains(got.Where, "deleted") {
		t.Errorf("%+v", got)
	}
	h.key("service-token", "token")
	if got := expect(one, 1, "", false, ""); !strings.Contains(got.Where, "does not remember") {
		t.Errorf("the successor of a deleted key is taken for it: %+v", got)
	}
}

// What people paste is seldom the bare value.
func TestIdentifyWhatPeoplePaste(t *testing.T) {
	h := newHarness(t)
	h.kinds = append(h.kinds, external.Kind{})
	h.open()
	define := func(name, value string) {
		t.Helper()
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: name, Kind: "external", Options: map[string]string{"multiline": "true"}}, testActor)
		h.ok(err)
		_, _, err = h.engine.First(t.Context(), name, key.NewValue(value), testActor)
		h.ok(err)
	}
	const password = "S3cret/with space"
	define("url", "postgresql://app:S3cret%2Fwith%20space@db:5432/app?sslmode=require")
	define("token", "tok_0123456789abcdef")
	define("pem", "-----BEGIN KEY-----\nMIIabc\n-----END KEY-----\n")
	for text, want := range map[string]string{
		"tok_0123456789abcdef":                                               "token",
		"tok_0123456789abcdef\n":                                             "token",
		"  'tok_0123456789abcdef'  ":                                         "token",
		"A=1\nexport API_TOKEN=\"tok_0123456789abcdef\"\nB=2\n":              "token",
		"Authorization: Bearer tok_0123456789abcdef":                         "token",
		"x-api-key: tok_0123456789abcdef\r\n":                                "token",
		password:                                                             "url password",
		"PGPASSWORD=" + password:                                             "url password",
		"mysql://other:S3cret%2Fwith%20space@elsewhere/x":                    "url password",
		"postgresql://app:S3cret%2Fwith%20space@db:5432/app?sslmode=require": "url",
		"-----BEGIN KEY-----\nMIIabc\n-----END KEY-----":                     "pem",
	} {
		var got []string
		all, err := h.engine.Identify(t.Context(), key.NewValue(text), "", testActor)
		h.ok(err)
		for _, i := range all {
			got = append(got, strings.TrimSpace(i.Key+" "+i.Part))
		}
		if !slices.Contains(got, want) {
			t.Errorf("%q: %v, want %s", text, got, want)
		}
		h.clock.advance(time.Minute)
	}
	for _, text := range []string{"tok_0123456789abcdeX", "app", "5432", "MIIabc", "Bearer"} {
		if all, err := h.engine.Identify(t.Context(), key.NewValue(text), "", testActor); err != nil || len(all) > 0 {
			t.Errorf("%q: %+v, %v", text, all, err)
		}
	}
	for _, text := range []string{"", " \n", strings.Repeat("x", maxIdentifyValue+1)} {
		if _, err := h.engine.Identify(t.Context(), key.NewValue(text), "", testActor); !refused(err) || !strings.Contains(err.Error(), "value") {
			t.Errorf("%.10q: %v", text, err)
		}
	}
}

// The password with which the mount logs in as an administrator is found, too.
func TestIdentifyAnAdministratorsPassword(t *testing.T) {
	h, _ := connected(t)
	c, _ := h.engine.Connection("main")
	secret := ""
	for _, v := range c.Secrets {
		secret = v.Reveal()
	}
	if got := h.identify("password: " + secret); got.Connection != "main" || !got.Accepted || len(got.Do) != 1 || got.Do[0] != "vault write -f hyvve/connections/main/rotate-root" {
		t.Errorf("%+v", got)
	}
}

// A request leaves an entry without the value, and one caller cannot try many.
func TestIdentifyIsJournaledAndBounded(t *testing.T) {
	h := newHarness(t)
	h.key("service-token", "token")
	h.identify(h.value("service-token", 1))
	const guess = "a guess that nobody has issued"
	for n := range maxIdentifyCaller - 1 {
		if all, err := h.engine.Identify(t.Context(), key.NewValue(fmt.Sprint(guess, n)), "", testActor); err != nil || len(all) > 0 {
			t.Fatalf("%+v, %v", all, err)
		}
	}
	if _, err := h.engine.Identify(t.Context(), key.NewValue(guess), "", testActor); !refused(err) || !strings.Contains(err.Error(), "try again in") {
		t.Errorf("one more: %v", err)
	}
	if _, err := h.engine.Identify(t.Context(), key.NewValue(guess), "", rotation.Actor{Name: "ann"}); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	h.clock.advance(identifySpan)
	if _, err := h.engine.Identify(t.Context(), key.NewValue(guess), "", testActor); err != nil {
		t.Errorf("later: %v", err)
	}
	_, err := h.engine.Identify(t.Context(), key.NewValue(guess), strings.Repeat("x", longestReason+1), testActor)
	h.refused(err, "reason is 1025 bytes long")
	found := 0
	ids, err := h.engine.journal.IDs(t.Context())
	h.ok(err)
	for _, n := range ids {
		entry, _, err := h.engine.journal.Entry(t.Context(), n)
		h.ok(err)
		if entry.What == "a value was identified" && entry.By == "test" && entry.Reason == "in a chat" && len(entry.Keys) == 1 && entry.Keys[0].Key == "service-token" {
			found++
		}
	}
	if found != 1 {
		t.Errorf("%d entries say what was identified", found)
	}
	for path, data := range h.store.data {
		if strings.Contains(string(data), guess) {
			t.Errorf("%s holds what was asked for", path)
		}
	}
}

// Versions of an earlier release, which remembered no values, are identified: live ones are remembered at the first start.
func TestIdentifyOfAnEarlierRelease(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	one := h.value("service-token", 1)
	h.until(h.rotate("service-token"), rotation.Done)
	two := h.value("service-token", 2)
	h.clock.advance(48 * time.Hour)
	h.rounds(3)
	for path := range h.store.data {
		if strings.HasPrefix(path, issued.Prefix) || path == pathIssued {
			delete(h.store.data, path)
		}
	}
	h.open()
	if got := h.identify(one); got.Number != 1 || got.State != key.Destroyed {
		t.Errorf("the erased one: %+v", got)
	}
	if got := h.identify(two); got.Number != 2 {
		t.Errorf("the live one: %+v", got)
	}
	remembered := 0
	for path := range h.store.data {
		if strings.HasPrefix(path, issued.Prefix) {
			remembered++
		}
	}
	if remembered != 1 {
		t.Errorf("%d values are remembered", remembered)
	}
}

// Killed before or after any write, no version that was ever valid is unknown.
func TestIdentifyAfterACrash(t *testing.T) {
	atEveryWrite(t, 8, func(at int, after bool) bool {
		h := newHarness(t)
		h.key("service-token", "token")
		h.workload(workload.Workload{Name: "api", Keys: map[string]workload.Role{"service-token": {Presents: true, Verifies: true}}})
		h.join("api", "api-1")
		h.failAt(at, after)
		_, _, _ = h.engine.Rotate(context.Background(), Request{Keys: []string{"service-token"}, By: testActor, Trigger: rotation.ByOperator})
		values := map[string]bool{}
		crashed := h.throughCrash(time.Second, func() {
			k, _ := h.engine.Key("service-token")
			for _, v := range k.Versions {
				if !v.Value.Empty() {
					values[v.Value.Reveal()] = true
				}
			}
		})
		h.open()
		for value := range values {
			if all, err := h.engine.Identify(t.Context(), key.NewValue(value), "", testActor); err != nil || len(all) != 1 {
				t.Errorf("write %d, after %v: %+v, %v", at, after, all, err)
			}
		}
		return crashed
	})
}

// A record that is damaged, or of a newer release, holds up no rotation.
func TestDamagedRecordsOfIssuedValues(t *testing.T) {
	for name, damage := range map[string]string{"no JSON": "x", "another's": `{"schema":1,"digest":"00"}`, "newer": `{"schema":99}`} {
		h := newHarness(t)
		h.hyvve()
		for path := range h.store.data {
			if strings.HasPrefix(path, issued.Prefix) {
				h.store.data[path] = []byte(damage)
			}
		}
		h.open()
		if err := h.identifyAll("service-token"); err == nil {
			t.Errorf("%s: identified", name)
		}
		h.until(h.rotate("service-token"), rotation.Done)
		if err := h.identifyAll("service-token"); err != nil && name != "newer" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A retired version that an instance still accepts, since it did not follow a compromised rotation, is no value that nobody accepts.
func TestIdentifyNamesWhoStillAccepts(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.retains("service-token", 24*time.Hour)
	one := h.value("service-token", 1)
	h.readers["api/api-2"].deaf = true
	id := h.ask(Request{Keys: []string{"service-token"}, Compromised: true, Deadline: 5 * time.Second})
	h.until(id, rotation.Done)
	got := h.identify(one)
	if !got.Accepted || got.State != key.Retained || !strings.HasPrefix(got.Where, "api/api-2 may still accept it") || !slices.Equal(got.Do, []string{"vault read hyvve/workloads/api"}) {
		t.Errorf("while an instance has not followed: %+v", got)
	}
	h.readers["api/api-2"].deaf = false
	h.rounds(3)
	if got := h.identify(one); got.Accepted || len(got.Do) != 0 || !strings.HasPrefix(got.Where, "nobody accepts it") {
		t.Errorf("after it has: %+v", got)
	}
}
