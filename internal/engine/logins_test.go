// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Tokens of logins: two of one entity, one of another, and two of none.
var (
	loginA1 = fleet.Token{ID: "t1", Accessor: "a1", Entity: "e-a", Name: "kubernetes-api"}
	loginA2 = fleet.Token{ID: "t2", Accessor: "a2", Entity: "e-a", Name: "kubernetes-api"}
	loginB  = fleet.Token{ID: "t3", Accessor: "a3", Entity: "e-b", Name: "approle"}
	batch1  = fleet.Token{ID: "t4"}
	batch2  = fleet.Token{ID: "t5"}
)

func loginHarness(t *testing.T) *harness {
	h := newHarness(t)
	h.key("service-token", "token")
	h.workload(workload.Workload{Name: "api", Keys: map[string]workload.Role{"service-token": {Verifies: true}}})
	return h
}

func (h *harness) readAs(token fleet.Token, heartbeat bool, secret key.Value) (Reading, error) {
	return h.engine.Read(h.t.Context(), fleet.Reader{Workload: "api", Instance: "api-1", Token: token, Heartbeat: heartbeat, Secret: secret}, time.Hour)
}

func TestInstanceBelongsToItsLogin(t *testing.T) {
	for _, c := range []struct {
		name      string
		first     fleet.Token
		heartbeat bool // of the first
		watches   bool // the first does, as sidecars of earlier releases do
		second    fleet.Token
		waits     time.Duration // until the second may read; 0: at once
	}{
		{"same login", loginA1, true, false, loginA1, 0},
		{"sidecar, same entity", loginA1, true, false, loginA2, 30 * time.Second},
		{"sidecar of an earlier release, same entity", loginA1, false, true, loginA2, 30 * time.Second},
		{"no sidecar, same entity", loginA1, false, false, loginA2, 5 * time.Minute},
		{"sidecar, another entity", loginA1, true, false, loginB, 5 * time.Minute},
		{"sidecar, an entity and none", loginA1, true, false, batch1, 5 * time.Minute},
		{"sidecar, batch tokens without an entity", batch1, true, false, batch2, 30 * time.Second},
		{"same batch token", batch1, true, false, batch1, 0},
		{"not known, as of earlier releases", fleet.Token{}, true, false, loginA1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := loginHarness(t)
			first, err := h.readAs(c.first, c.heartbeat, key.Value{})
			h.ok(err)
			if c.watches {
				h.engine.SignOfLife("api", "api-1", c.first)
			}
			_, err = h.readAs(c.second, true, key.Value{})
			if c.waits == 0 {
				h.ok(err)
				return
			}
			for _, want := range []string{"belongs to another login", duration.Text((c.waits + time.Second - 1).Truncate(time.Second)), "vault delete hyvve/workloads/api/instances/api-1"} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Fatalf("%v does not say %q", err, want)
				}
			}
			h.clock.advance(c.waits - time.Second)
			if _, err = h.readAs(c.second, true, key.Value{}); err == nil {
				t.Fatal("another login has the name a second too early")
			}
			if _, err := h.engine.Extend("api", "api-1", first.Secret, time.Hour); err != nil {
				t.Fatalf("what was refused concerns the instance: %v", err)
			}
			h.clock.advance(5 * time.Minute) // its report has made it a sidecar's, and another lease has begun
			second, err := h.readAs(c.second, true, key.Value{})
			h.ok(err)
			if _, err := h.engine.Extend("api", "api-1", first.Secret, time.Hour); err == nil {
				t.Error("the login that has lost the name may still report")
			}
			_, err = h.engine.Extend("api", "api-1", second.Secret, time.Hour)
			h.ok(err)
		})
	}
}

// A sidecar that logs in again reads on at once with the secret of its newest read, whatever else it was of.
func TestInstanceSecretMovesAName(t *testing.T) {
	h := loginHarness(t)
	first, err := h.readAs(loginA1, true, key.Value{})
	h.ok(err)
	second, err := h.readAs(loginB, true, first.Secret)
	h.ok(err)
	for name, secret := range map[string]key.Value{
		"that of an older read": first.Secret, "a guess": key.NewValue("1-2.00"), "none": {},
		"a read that is to come": key.NewValue("1-ff." + strings.Repeat("0", 64)),
	} {
		if _, err := h.readAs(loginA2, true, secret); err == nil {
			t.Errorf("%s moves the name", name)
		}
	}
	if _, err := h.engine.Extend("api", "api-1", second.Secret, time.Hour); err != nil {
		t.Errorf("attempts concern the instance: %v", err)
	}
	i := h.engine.Instances("api")[0]
	if i.Login.Name != "approle" || i.Login.Entity != "e-b" || len(i.Login.Accessor) < 16 {
		t.Errorf("login %+v", i.Login)
	}
}

// A process that says that it ends leaves its name to the next one, and its instance counts until its lease ends.
func TestLastReportReleasesTheName(t *testing.T) {
	h := loginHarness(t)
	first, err := h.readAs(loginA1, true, key.Value{})
	h.ok(err)
	report := Report{Workload: "api", Instance: "api-1", Secret: first.Secret, Reason: "crashed", Last: true}
	_, err = h.engine.Report(t.Context(), report)
	h.ok(err)
	if _, err := h.readAs(loginB, true, key.Value{}); err == nil {
		t.Error("another entity has the name")
	}
	if len(h.engine.Instances("api")) != 1 {
		t.Error("it does not count any more")
	}
	second, err := h.readAs(loginA2, true, key.Value{})
	h.ok(err)
	if _, err := h.readAs(loginA1, true, key.Value{}); err == nil {
		t.Error("the name stays free")
	}
	report.Secret = second.Secret
	_, err = h.engine.Report(t.Context(), report)
	h.ok(err)
	h.engine.SignOfLife("api", "api-1", loginA2) // it continues all the same
	if _, err := h.readAs(loginA1, true, key.Value{}); err == nil {
		t.Error("the name of one that goes on is free")
	}
}

// Two logins without an entity have nothing in common: one takes over the name of an instance that ends no sooner than that of
// another that is silent, or with its secret.
func TestNameOfNoEntityIsNotReleased(t *testing.T) {
	for how, ends := range map[string]func(h *harness, secret key.Value) error{
		"the process ends": func(h *harness, secret key.Value) error {
			_, err := h.engine.Report(h.t.Context(), Report{Workload: "api", Instance: "api-1", Secret: secret, Last: true})
			return err
		},
		"the sidecar stops": func(h *harness, secret key.Value) error {
			_, err := h.engine.Leaving(h.t.Context(), "api", "api-1", secret, time.Hour)
			return err
		},
	} {
		for _, withSecret := range []bool{false, true} {
			h := loginHarness(t)
			first, err := h.readAs(batch1, true, key.Value{})
			h.ok(err)
			h.ok(ends(h, first.Secret))
			secret := key.Value{}
			if withSecret {
				secret = first.Secret
			} else {
				_, err := h.readAs(batch2, true, secret)
				h.refused(err, "this login may use the name in 30s")
				h.clock.advance(h.engine.Config().TakeoverAfter)
			}
			if _, err = h.readAs(batch2, true, secret); err != nil {
				t.Errorf("%s, with its secret: %v: %v", how, withSecret, err)
			}
		}
	}
}

// Whose an instance is outlives the engine: a read that changes nothing else is stored, and after a start nobody has a name
// before its sidecar had the time to come back.
func TestLoginOutlivesTheEngine(t *testing.T) {
	h := loginHarness(t)
	first, err := h.readAs(loginA1, true, key.Value{})
	h.ok(err)
	second, err := h.readAs(loginA2, true, first.Secret)
	h.ok(err)
	h.open()
	if _, err := h.readAs(loginA1, true, key.Value{}); err == nil {
		t.Error("the login before has the name after a start")
	}
	_, err = h.readAs(loginA2, true, key.Value{})
	h.ok(err)
	h.open()
	h.clock.advance(fleet.ReturnTime - time.Second)
	if _, err := h.readAs(loginA1, true, key.Value{}); err == nil {
		t.Error("another login has the name before its sidecar had the time to come back")
	}
	h.clock.advance(time.Second)
	_, err = h.readAs(loginA1, true, key.Value{})
	h.ok(err)
	if _, err := h.readAs(loginB, true, second.Secret); err == nil {
		t.Error("a secret from before moves the name")
	}
}

// A secret of a read that the engine did not store, since it gave the same again, is the newest one after a crash.
func TestSecretOfAReadThatWasNotStored(t *testing.T) {
	h := loginHarness(t)
	for range 2 {
		_, err := h.readAs(loginA1, true, key.Value{})
		h.ok(err)
	}
	newest, err := h.readAs(loginA1, true, key.Value{})
	h.ok(err)
	h.open()
	_, err = h.readAs(loginB, true, newest.Secret)
	h.ok(err)
}

// A sidecar of an earlier release that logs in again lives, and is refused for a while. Its lease may end meanwhile; it counts
// until it had the time to read again, so that no rotation continues as if it were gone.
func TestRefusedLoginStillCounts(t *testing.T) {
	for _, c := range []struct {
		next fleet.Token
		left time.Duration // of the lease, when it logs in again
	}{{loginA2, 10 * time.Second}, {loginB, 50 * time.Second}} {
		h := loginHarness(t)
		first, err := h.readAs(loginA1, true, key.Value{})
		h.ok(err)
		h.clock.advance(5*time.Minute - c.left)
		h.engine.SignOfLife("api", "api-1", loginA1)
		if _, err := h.readAs(c.next, true, key.Value{}); err == nil {
			t.Fatal("the other login is not refused")
		}
		h.clock.advance(c.left)
		h.ok(h.engine.Revoke(t.Context(), "api", "api-1", first.Epoch))
		h.clock.advance(15 * time.Second)
		h.engine.Tick(t.Context())
		if len(h.engine.Instances("api")) != 1 {
			t.Fatalf("%s: it does not count any more", c.next.Accessor)
		}
		_, err = h.readAs(c.next, true, key.Value{})
		h.ok(err)
		h = loginHarness(t)
		first, err = h.readAs(loginA1, true, key.Value{})
		h.ok(err)
		if _, err := h.readAs(c.next, true, key.Value{}); err == nil {
			t.Fatal("the other login is not refused")
		}
		h.clock.advance(5*time.Minute + 30*time.Second + time.Second) // nobody came for it
		h.ok(h.engine.Revoke(t.Context(), "api", "api-1", first.Epoch))
		h.engine.Tick(t.Context())
		if len(h.engine.Instances("api")) != 0 {
			t.Errorf("%s: it counts for ever", c.next.Accessor)
		}
	}
}

// Another's requests under an instance's name are no signs of its life.
func TestSignsOfLife(t *testing.T) {
	h := loginHarness(t)
	_, err := h.readAs(loginA1, true, key.Value{})
	h.ok(err)
	h.clock.advance(29 * time.Second)
	if h.engine.SignOfLife("api", "api-1", loginA2) {
		t.Error("another login may ask in its name")
	}
	h.clock.advance(time.Second)
	_, err = h.readAs(loginA2, true, key.Value{})
	h.ok(err)
	h.clock.advance(29 * time.Second)
	h.engine.SignOfLife("api", "api-1", loginA2)
	h.clock.advance(29 * time.Second)
	if _, err := h.readAs(loginA1, true, key.Value{}); err == nil {
		t.Error("an instance that watches has lost its name")
	}
}
