// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// login is a server with an administrator, whose password it knows.
type login struct {
	*server
	password string
	refuse   error // of RotateRoot, after it took effect
}

var _ kind.Connector = (*login)(nil)

func (*login) Name() string { return "login" }

func (*login) Fields() []kind.Field {
	return []kind.Field{{Name: kind.OptionConnection, Description: "the connection"}}
}

func (l *login) Normalize(o kind.Options) (kind.Options, error) {
	return kind.Defaults(l.Fields(), o)
}

func (*login) Check(kind.Options, key.Value) ([]string, error) { return nil, nil }

func (*login) ConnectionFields() []kind.Field {
	return []kind.Field{{Name: "url"}, {Name: "note", Harmless: true}, kind.AllowedHostsField(), {Name: kind.FieldPassword, Secret: true}}
}

func (*login) NormalizeConnection(c kind.Connection) (kind.Connection, error) {
	if c.Options["url"] == "" {
		return c, errors.New("url is empty")
	}
	return c, nil
}

func (l *login) admits(c kind.Connection) error {
	for _, p := range c.Passwords() {
		if p.Reveal() == l.password {
			return nil
		}
	}
	return errors.New("login refused")
}

func (l *login) CheckConnection(_ context.Context, c kind.Connection) ([]string, error) {
	return []string{"nothing is durable here"}, l.admits(c)
}

func (l *login) RotateRoot(_ context.Context, c kind.Connection) error {
	if err := l.admits(c); err != nil {
		return err
	}
	l.password = c.Next.Reveal()
	return l.refuse
}

func (*login) Login(value key.Value) (string, error)  { return value.Reveal(), nil }
func (*login) Servers(c kind.Connection) []string     { return []string{c.Options["url"]} }
func (*login) Administrator(c kind.Connection) string { return c.Options["note"] }

func (l *login) Stage(ctx context.Context, c kind.Change) error {
	if err := l.admits(c.Connection); err != nil {
		return err
	}
	return l.server.Stage(ctx, c)
}

func (l *login) Generate(random io.Reader, _ key.Key, from key.Value) (key.Value, error) {
	return l.server.Generate(random, key.Key{}, from)
}

func connected(t *testing.T) (*harness, *login) {
	h := newHarness(t)
	l := &login{server: h.server, password: "right"}
	h.kinds = kind.List{l}
	h.open()
	h.ok(h.connect("right"))
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "db", Kind: "login", Options: kind.Options{"connection": "main"}}, testActor)
	h.ok(err)
	return h, l
}

func (h *harness) connect(password string) error {
	_, err := h.engine.PutConnection(h.t.Context(), kind.Connection{
		Name: "main", Kind: "login", Options: kind.Options{"url": "x"}, Secrets: map[string]key.Value{kind.FieldPassword: key.NewValue(password)},
	}, true, testActor)
	return err
}

func TestConnectionThatAllowsAnyHostIsNoted(t *testing.T) {
	h, _ := connected(t)
	c, err := h.engine.PutConnection(t.Context(), kind.Connection{Name: "main", Options: kind.Options{kind.FieldAllowedHosts: "*"}}, true, testActor)
	h.ok(err)
	if len(c.Notes) != 2 || !strings.Contains(c.Notes[1], "allowed_hosts allows any host") {
		t.Errorf("notes: %q", c.Notes)
	}
}

func TestConnectionIsVerifiedAndKept(t *testing.T) {
	h, _ := connected(t)
	if err := h.connect("wrong"); err == nil || !strings.Contains(err.Error(), "login refused") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong password: %v", err)
	}
	h.open()
	c, ok := h.engine.Connection("main")
	if !ok || c.Secrets[kind.FieldPassword].Reveal() != "right" || len(c.Notes) != 1 {
		t.Errorf("after a restart: %v %v", ok, c.Notes)
	}
	for want, err := range map[string]error{
		"is used by key db": h.engine.DeleteConnection(t.Context(), "main", testActor),
		"url is empty": func() error {
			_, err := h.engine.PutConnection(t.Context(), kind.Connection{Name: "b", Kind: "login"}, false, testActor)
			return err
		}(),
		"has no connections": func() error {
			_, err := h.engine.PutConnection(t.Context(), kind.Connection{Name: "b", Kind: "server"}, false, testActor)
			return err
		}(),
		"is not known": func() error {
			_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "x", Kind: "login", Options: kind.Options{"connection": "nope"}}, testActor)
			return err
		}(),
		"names no connection": func() error {
			_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "x", Kind: "login"}, testActor)
			return err
		}(),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A password that two connections log in with is not changed for one of them; a rotation that has begun is finished.
func TestRotateRootOfASharedAdministrator(t *testing.T) {
	h, l := connected(t)
	put := func(name, url, admin string) {
		t.Helper()
		_, err := h.engine.PutConnection(t.Context(), kind.Connection{
			Name: name, Kind: "login", Options: kind.Options{"url": url, "note": admin}, Secrets: map[string]key.Value{kind.FieldPassword: key.NewValue("right")},
		}, false, testActor)
		h.ok(err)
	}
	put("main", "x", "root")
	put("other-server", "y", "root")
	put("other-admin", "x", "boss")
	put("same", "x", "root")
	for name, other := range map[string]string{"main": "same", "same": "main"} {
		c, err := h.engine.RotateRoot(t.Context(), name, testActor)
		if err == nil || !strings.Contains(err.Error(), "connection "+other+" logs in as the same administrator") || !c.Next.Empty() || l.password != "right" {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.ok(h.engine.DeleteConnection(t.Context(), "same", testActor))
	l.refuse = errors.New("the connection was lost")
	if _, err := h.engine.RotateRoot(t.Context(), "main", testActor); err == nil {
		t.Error("a lost reply is no error")
	}
	put("same", "x", "root")
	l.refuse = nil
	_, err := h.engine.RotateRoot(t.Context(), "main", testActor)
	h.ok(err)
}

// Killed after the server took the new password, either is known, and a repetition ends it.
func TestRotateRootSurvivesACrash(t *testing.T) {
	h, l := connected(t)
	l.refuse = errors.New("the connection was lost")
	if _, err := h.engine.RotateRoot(t.Context(), "main", testActor); err == nil || strings.Contains(err.Error(), l.password) {
		t.Errorf("a lost reply: %v", err)
	}
	first := l.password
	if first == "right" {
		t.Fatal("the password was not changed")
	}
	l.refuse = nil
	h.open()
	h.key("db2", "server")
	_, _, err := h.engine.First(t.Context(), "db", key.Value{}, testActor)
	h.ok(err) // although the stored password is not in force
	c, err := h.engine.RotateRoot(t.Context(), "main", testActor)
	h.ok(err)
	if l.password != first || c.Secrets[kind.FieldPassword].Reveal() != first || !c.Next.Empty() || c.Rotated.IsZero() {
		t.Error("the repetition did not end with the password that was drawn first")
	}
	h.open()
	if c, _ := h.engine.Connection("main"); len(c.Passwords()) != 1 || c.Passwords()[0].Reveal() != first {
		t.Error("the new password is not what is stored")
	}
}

// An administrator's password that was changed behind our back holds a rotation; writing the connection lets it go on at
// once.
func TestRotationGoesOnWhenTheConnectionIsMended(t *testing.T) {
	h, l := connected(t)
	_, _, err := h.engine.First(t.Context(), "db", key.Value{}, testActor)
	h.ok(err)
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"db": {Presents: true}}})
	h.join("api", "api-1")
	l.password = "changed"
	id := h.rotate("db")
	for range 5 {
		h.round()
	}
	view := h.view(id)
	if view.Step != rotation.StepStage || !strings.Contains(view.Waits(), "login refused") {
		t.Fatalf("%s %s: %s", view.State, view.Step, view.Waits())
	}
	h.ok(h.connect("changed"))
	h.until(id, rotation.Done)
}

// What the server has to learn before it is current is stored first: killed at any write, or refused, a repetition ends
// with the same value.
func TestFirstVersionAtAServer(t *testing.T) {
	h := newHarness(t)
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "db", Kind: "server"}, testActor)
	h.ok(err)
	h.server.fail["stage"] = errors.New("connection refused")
	if _, _, err := h.engine.First(t.Context(), "db", key.Value{}, testActor); err == nil || !strings.Contains(err.Error(), "generate=true") {
		t.Fatalf("a server that is down: %v", err)
	}
	k, _ := h.engine.Key("db")
	drawn, ok := k.FirstStaged()
	if _, current := k.Current(); !ok || current {
		t.Fatal("version 1 is not staged")
	}
	h.open()
	h.server.fail["stage"] = nil
	k, _, err = h.engine.First(t.Context(), "db", key.Value{}, testActor)
	h.ok(err)
	if v, ok := k.Current(); !ok || !v.Value.Equal(drawn.Value) || !h.server.valid[v.Value.Reveal()] {
		t.Error("the repetition did not end with the same value")
	}
}

// What somebody presents is not taken back while it is in use.
func TestRevertWaitsForSessions(t *testing.T) {
	h := newHarness(t)
	h.key("db", "server")
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"db": {Presents: true}}})
	h.join("api", "api-1")
	h.server.inUse = 1
	id := h.rotate("db")
	h.until(id, rotation.Soaking)
	_, err := h.engine.Revert(t.Context(), id, testActor, "")
	h.ok(err)
	for range 5 {
		h.round()
	}
	if view := h.view(id); view.Step != rotation.StepUnstage || !strings.Contains(view.Waits(), "version 2 is in use") {
		t.Errorf("%s %s: %s", view.State, view.Step, view.Waits())
	}
	h.server.inUse = 0
	h.until(id, rotation.Reverted)
}

// A caller who writes what is refused leaves few entries, and no others are lost for it.
func TestRefusalsAreJournaledInBounds(t *testing.T) {
	h, _ := connected(t)
	ids := func() int {
		all, err := h.engine.journal.IDs(t.Context())
		h.ok(err)
		return len(all)
	}
	refused := func(by, url string) {
		t.Helper()
		written := kind.Connection{Name: "main", Options: kind.Options{"url": url}}
		_, err := h.engine.PutConnection(t.Context(), written, true, rotation.Actor{Name: by})
		h.engine.JournalAttempt(t.Context(), err, journal.Entry{What: "writing a connection", By: by, Connection: "main", Changes: h.engine.ConnectionChanges(written)})
		if err == nil || !strings.Contains(err.Error(), "url was changed") {
			t.Fatalf("moved: %v", err)
		}
	}
	before := ids()
	for range 100 {
		refused("one", "elsewhere")
	}
	if n := ids() - before; n != 1 {
		t.Errorf("the same refusal left %d entries", n)
	}
	for n := range 100 {
		refused("one", "x://"+strings.Repeat("x", n+2))
	}
	if n := ids() - before; n != maxRefusals {
		t.Errorf("different refusals left %d entries", n)
	}
	refused("two", "elsewhere")
	if n := ids() - before; n != maxRefusals+1 {
		t.Error("another caller's refusal is not journaled")
	}
	for n := range 1000 {
		refused(strings.Repeat("y", n), "elsewhere")
	}
	if n := ids() - before; n != maxTogether {
		t.Errorf("many callers left %d entries", n)
	}
	all, err := h.engine.journal.IDs(t.Context())
	h.ok(err)
	entry, _, err := h.engine.journal.Entry(t.Context(), all[before])
	h.ok(err)
	if len(entry.Changes) != 1 || entry.Changes[0] != (rotation.EntryChange{Field: "url", From: "(hidden)", To: "(hidden)"}) || !strings.Contains(entry.Refused, "password=-") || entry.Connection != "main" {
		t.Errorf("entry: %+v", entry)
	}
	v, err := h.engine.journal.Verify(t.Context())
	h.ok(err)
	if len(v.Faults) > 0 {
		t.Errorf("faults: %q", v.Faults)
	}
}

// What decides nothing changes alone, and rotate-root is not forgotten for it; two who write at the same time do not mix
// what they write.
func TestConnectionIsChangedInPart(t *testing.T) {
	h, l := connected(t)
	l.refuse = errors.New("the connection was lost")
	if _, err := h.engine.RotateRoot(t.Context(), "main", testActor); err == nil {
		t.Fatal("a lost reply")
	}
	c, err := h.engine.PutConnection(t.Context(), kind.Connection{Name: "main", Options: kind.Options{"note": "y"}}, true, testActor)
	h.ok(err)
	if c.Next.Reveal() != l.password || c.Options["url"] != "x" {
		t.Error("the password that rotate-root has made is forgotten")
	}
	old, _ := h.engine.Connection("main")
	h.ok(h.connect(l.password))
	if err := h.engine.update(func(l *locked) error { return l.storeConnection(t.Context(), old, old, nil, testActor) }); err == nil || !strings.Contains(err.Error(), "by somebody else meanwhile") {
		t.Errorf("a write from what is not stored any more: %v", err)
	}
}
