// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// sharedServer is a server with an application's user.
type sharedServer struct {
	kind, admin, app string // URLs
	login            func(ctx context.Context, url string) error
}

func sharedPostgres(t *testing.T, b *bed.Bed) sharedServer {
	t.Helper()
	p, err := b.Postgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.NewDatabase(t.Context(), "app"); err != nil {
		t.Fatal(err)
	}
	password, err := p.NewRole(t.Context(), "appuser")
	if err != nil {
		t.Fatal(err)
	}
	return sharedServer{"postgres", p.AdminURL("postgres"), p.URL("app", "appuser", password), func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err == nil {
			err = conn.Close(ctx)
		}
		return err
	}}
}

func sharedRedis(t *testing.T, b *bed.Bed) sharedServer {
	t.Helper()
	r, err := b.Redis(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	login := func(ctx context.Context, url string, args ...any) error {
		options, err := goredis.ParseURL(url)
		if err != nil {
			return err
		}
		client := goredis.NewClient(options)
		defer client.Close() //nolint:errcheck // nothing is pending
		return client.Do(ctx, args...).Err()
	}
	if err := login(t.Context(), r.AdminURL(), "ACL", "SETUSER", "appuser", "on", ">canary-app", "~*", "+@all"); err != nil {
		t.Fatal(err)
	}
	return sharedServer{"redis", r.AdminURL(), r.UserURL("appuser", "canary-app"), func(ctx context.Context, url string) error { return login(ctx, url, "PING") }}
}

// at is the URL of a server under another of its names.
func (s sharedServer) at(t *testing.T, text, host string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = host + ":" + u.Port()
	return u.String()
}

// Keys whose versions share a login are rotated together or not at all, whatever the connections are called.
func TestKeysThatShareALogin(t *testing.T) {
	b := bed.ForTest(t)
	for name, start := range map[string]func(*testing.T, *bed.Bed) sharedServer{"postgres": sharedPostgres, "redis": sharedRedis} {
		t.Run(name, func(t *testing.T) { shareALogin(t, start(t, b)) })
	}
}

func shareALogin(t *testing.T, s sharedServer) {
	b := newBackendTest(t)
	b.write("config", map[string]any{"soak": "0s", "observe": "0s"})
	b.write("connections/main", map[string]any{"kind": s.kind, "url": s.admin})
	b.write("connections/other", map[string]any{"kind": s.kind, "url": s.at(t, s.admin, "localhost")})
	b.refuses(logical.UpdateOperation, "keys/root", map[string]any{"kind": s.kind, "connection": "main", "value": s.admin}, "no rotation could follow it")
	b.write("keys/one", map[string]any{"kind": s.kind, "connection": "main", "value": s.app})
	resp := b.call(logical.UpdateOperation, "keys/two", map[string]any{"kind": s.kind, "connection": "other", "value": s.at(t, s.app, "localhost")})
	if resp.IsError() || !strings.Contains(fmt.Sprint(resp.Warnings), "keys=two,one") {
		t.Fatalf("the second key of a login: %v, warnings %q", resp.Error(), resp.Warnings)
	}
	b.write("workloads/api", map[string]any{"presents": "one,two"})
	values := func() map[string]any { return b.instance("api", "api-1").Data["values"].(map[string]any) }
	values()
	const remedy = "rotate them together, with keys=one,two"
	if plan := b.write("rotate", map[string]any{"key": "one", "dry_run": true, "detailed": true}); !strings.Contains(fmt.Sprint(plan["blockers"]), remedy) {
		t.Errorf("blockers: %v", plan["blockers"])
	}
	b.refuses(logical.UpdateOperation, "rotate", map[string]any{"key": "one"}, remedy)
	if err := s.login(t.Context(), values()["TWO"].(string)); err != nil {
		t.Errorf("after a refused rotation: %v", err)
	}

	id := b.write("rotate", map[string]any{"keys": "one,two", "confirm": "manual"})["id"].(string)
	b.until(id, "confirm")
	for _, name := range []string{"ONE", "TWO"} {
		if err := s.login(t.Context(), values()[name].(string)); err != nil {
			t.Errorf("%s while both versions are valid: %v", name, err)
		}
	}
	if err := s.login(t.Context(), s.app); err != nil {
		t.Errorf("the old login while the rotation goes on: %v", err)
	}
	b.refuses(logical.UpdateOperation, "keys/three", map[string]any{"kind": s.kind, "connection": "main", "value": s.app}, "which rotation "+id+" gives another login")
	b.write("rotations/"+id+"/confirm", nil)
	b.until(id, "done")
	now := values()
	users := map[string]bool{}
	for _, name := range []string{"ONE", "TWO"} {
		text := now[name].(string)
		if err := s.login(t.Context(), text); err != nil {
			t.Errorf("%s at the end: %v", name, err)
		}
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		users[u.User.Username()] = true
	}
	if len(users) != 2 || users["appuser"] {
		t.Errorf("the keys log in as %v", users)
	}
	if s.login(t.Context(), s.app) == nil {
		t.Error("the old login is valid still")
	}
	b.finishOne("one", s, values)
	b.refuses(logical.UpdateOperation, "keys/two", map[string]any{"username": "x", "value": "y"}, "which an import cannot replace, since it was rotated")
	b.forgetOne("one", s, values()["ONE"].(string), values)
}

// forgetOne deletes a key, which says what stays at the server.
func (b *backendTest) forgetOne(name string, s sharedServer, value string, read func() map[string]any) {
	b.t.Helper()
	b.write("workloads/api", map[string]any{"presents": "two", "drop": true})
	kit.Until(b.t, "the instance has followed", func() bool {
		read()
		return b.read("workloads/api").Data["change"] == ""
	}, func() string { return fmt.Sprint(b.read("workloads/api").Data["change"]) })
	u, err := url.Parse(value)
	if err != nil {
		b.t.Fatal(err)
	}
	resp := b.call(logical.DeleteOperation, "keys/"+name, nil)
	if resp.IsError() || !strings.Contains(fmt.Sprint(resp.Warnings), u.User.Username()+" (version ") {
		b.t.Errorf("deletion: %v, want a warning that names %s", resp, u.User.Username())
	}
	if err := s.login(b.t.Context(), value); err != nil {
		b.t.Errorf("the deletion has changed something at the server: %v", err)
	}
}

// finishOne rotates one of the keys alone, now that each has a login of its own.
func (b *backendTest) finishOne(name string, s sharedServer, values func() map[string]any) {
	b.t.Helper()
	id := b.write("rotate", map[string]any{"key": name})["id"].(string)
	b.until(id, "done")
	for _, env := range []string{"ONE", "TWO"} {
		if err := s.login(b.t.Context(), values()[env].(string)); err != nil {
			b.t.Errorf("%s after %s was rotated alone: %v", env, name, err)
		}
	}
}

// Values are tried at no host but those that the connection names or allows.
func TestKeysLeadToAllowedHosts(t *testing.T) {
	b := bed.ForTest(t)
	for name, start := range map[string]func(*testing.T, *bed.Bed) sharedServer{"postgres": sharedPostgres, "redis": sharedRedis} {
		t.Run(name, func(t *testing.T) { leadToAllowedHosts(t, start(t, b)) })
	}
}

func leadToAllowedHosts(t *testing.T, s sharedServer) {
	b := newBackendTest(t)
	b.write("config", map[string]any{"soak": "0s", "observe": "0s"})
	b.write("connections/main", map[string]any{"kind": s.kind, "url": s.admin})
	const remedy = "allowed_hosts of hyvve/connections/main"
	away := s.at(t, s.app, "127.0.0.1.nip.invalid")
	b.refuses(logical.UpdateOperation, "keys/one", map[string]any{"kind": s.kind, "connection": "main", "value": away}, remedy)
	scheme, rest, _ := strings.Cut(away, "://")
	_, rest, _ = strings.Cut(rest, "@")
	template := scheme + "://" + rest
	b.refuses(logical.UpdateOperation, "keys/one", map[string]any{"kind": s.kind, "connection": "main", "url": template}, remedy)
	b.refuses(logical.UpdateOperation, "keys/one", map[string]any{"kind": s.kind, "connection": "main", "urls": "OTHER_URL=" + template}, remedy)
	b.refuses(logical.UpdateOperation, "connections/main", map[string]any{"allowed_hosts": "http://x"}, "allowed_hosts: number 1")
	b.write("keys/one", map[string]any{"kind": s.kind, "connection": "main", "value": s.app, "urls": "OTHER_URL=" + template, "verify_urls": "false"})
	b.write("connections/main", map[string]any{"allowed_hosts": "*.nip.invalid"})
	b.write("keys/one", map[string]any{"urls": "OTHER_URL=" + template, "verify_urls": "true"})
	b.write("connections/main", map[string]any{"allowed_hosts": "elsewhere"})
	b.write("workloads/api", map[string]any{"presents": "one"})
	b.refuses(logical.UpdateOperation, "rotate", map[string]any{"key": "one"}, remedy)
	var refusals int
	for _, id := range b.list("journal") {
		if text := fmt.Sprint(b.read("journal/" + id).Data); strings.Contains(text, "127.0.0.1.nip.invalid") && strings.Contains(text, "was refused") {
			refusals++
		}
	}
	if refusals < 3 {
		t.Errorf("%d entries say where keys were to lead", refusals)
	}
}

// An import says then, and not only at the first rotation, what goes by the login's name.
func TestImportNamesWhatGoesBySessionUser(t *testing.T) {
	s := sharedPostgres(t, bed.ForTest(t))
	conn, err := pgx.Connect(t.Context(), strings.Replace(s.admin, "/postgres?", "/app?", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // nothing is pending
	if _, err := conn.Exec(t.Context(), `CREATE SCHEMA own AUTHORIZATION appuser; SET ROLE appuser; CREATE TABLE own.docs (who name DEFAULT session_user); ALTER TABLE own.docs ENABLE ROW LEVEL SECURITY;
		ALTER TABLE own.docs FORCE ROW LEVEL SECURITY; CREATE POLICY mine ON own.docs USING (who = session_user)`); err != nil {
		t.Fatal(err)
	}
	b := newBackendTest(t)
	b.write("connections/main", map[string]any{"kind": s.kind, "url": s.admin})
	resp := b.call(logical.UpdateOperation, "keys/one", map[string]any{"kind": s.kind, "connection": "main", "value": s.app})
	warnings := strings.Join(resp.Warnings, "\n")
	for _, want := range []string{
		"key one: its rotation would be blocked: app: policy mine on own.docs goes by session_user", "allow_session_user=true",
		"key one: session_user is another login role after each rotation", "default of own.docs.who",
	} {
		if !strings.Contains(warnings, want) {
			t.Errorf("no %q in the warnings:\n%s", want, warnings)
		}
	}
	if b.read("keys/one").Data["current_version"] != 1 {
		t.Error("the value is not imported")
	}
}
