// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/kinds"
	facts "github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// fresh is a Vault without a mount, and servers without an administrator for it.
type fresh struct {
	*typist
	vault    *bed.Vault
	postgres *bed.Postgres
	redis    *bed.Redis
	resets   int
}

const docPassword = "a-password-of-the-pages"

func newFresh(t *testing.T) *fresh {
	t.Helper()
	b := bed.ForTest(t)
	w := &fresh{}
	var err error
	if w.vault, err = b.Vault(t.Context(), bed.VaultOptions{NoMount: true}); err != nil {
		t.Fatal(err)
	}
	if w.postgres, err = b.Postgres(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.redis, err = b.Redis(t.Context()); err != nil {
		t.Fatal(err)
	}
	statements(t, w.postgres.AdminURL("postgres"), "CREATE ROLE app LOGIN PASSWORD '"+docPassword+"'", "CREATE DATABASE app OWNER app")
	w.typist = newTypist(t, w.vault.Server, "PG_PASSWORD="+docPassword, "REDIS_PASSWORD="+docPassword,
		"DATABASE_URL="+w.postgres.URL("app", "app", docPassword), "REDIS_URL="+w.redis.UserURL("app", docPassword))
	w.fill = strings.NewReplacer(
		"db:5432", fmt.Sprintf("127.0.0.1:%d", w.postgres.Port), "cache:6379", w.redis.Addr, "build/plugins/", bed.Tool("plugins")+"/",
	).Replace
	envFile(t, w.dir)
	w.command("ACL", "SETUSER", "app", "on", ">"+docPassword, "~*", "&*", "+@all", "-@admin")
	return w
}

// envFile writes the .env file of a platform that has no engine yet.
func envFile(t *testing.T, dir string) {
	t.Helper()
	list, text := kinds.All(), "# of yesterday\nPORT=3000\n"
	for _, k := range facts.Keys(facts.Servers{}) {
		kd, err := list.Get(k.Kind)
		if err != nil {
			t.Fatal(err)
		}
		generator, _ := kd.(kind.Generator)
		v, err := generator.Generate(rand.Reader, key.Key{Name: k.Name, Options: k.Options}, key.Value{})
		if err != nil {
			t.Fatal(err)
		}
		text += k.Env + "=" + v.Reveal() + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, ".env"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// statements runs SQL as a superuser.
func statements(t *testing.T, url string, all ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // nothing is pending
	for _, s := range all {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func (w *fresh) command(words ...string) {
	if said, err := w.redis.Do(w.t.Context(), words...); err != nil {
		w.t.Fatalf("%s: %s, %v", words[0], said, err)
	}
}

// reset makes the administrators by the statements of the pages, and takes away the mount of the page before.
func (w *fresh) reset(page string) {
	w.t.Helper()
	if w.resets++; page != "README.md" {
		w.types("reset", "vault secrets disable hyvve && vault secrets enable -path=hyvve vault-plugin-secrets-hyvve")
	}
	for _, b := range blocks(w.t, "docs/postgres.md") {
		if strings.HasPrefix(b.lines[0], "CREATE ROLE hyvve_admin ") {
			statements(w.t, w.postgres.AdminURL("postgres"), "DROP ROLE IF EXISTS hyvve_admin")
			statements(w.t, w.postgres.AdminURL("postgres"), strings.Split(strings.ReplaceAll(strings.Join(b.lines, "\n"), "…", docPassword), "\n")...)
		}
	}
	for _, b := range blocks(w.t, "docs/redis.md") {
		if strings.HasPrefix(b.lines[0], "ACL SETUSER hyvve_admin ") {
			w.command("ACL", "DELUSER", "hyvve_admin")
			w.command(strings.Fields(strings.ReplaceAll(b.lines[0], "PASSWORD", docPassword))...)
		}
	}
}

// documented is the platform as the pages have it.
type documented struct {
	*world
	typist *typist
	id     string // of the newest rotation that was prepared
}

func newDocumented(t *testing.T) *documented {
	t.Helper()
	w := &documented{world: start(t, small(true))}
	w.load.Stop() // keys are taken from workloads
	statements(t, w.Postgres.AdminURL("postgres"), "ALTER ROLE hyvve_witness PASSWORD '"+docPassword+"'")
	w.write("hyvve/connections/rows", map[string]any{"url": w.Postgres.URL("hyvve", "hyvve_witness", docPassword)})
	another := make([]byte, 32)
	_, _ = rand.Read(another) // never fails
	w.typist = newTypist(t, bed.Server{Addr: w.Server.Addr, Token: w.user()}, "WITNESS_PASSWORD="+docPassword,
		"ENCRYPTION_MASTER_KEY_NEW="+base64.StdEncoding.EncodeToString(another))
	if err := os.WriteFile(filepath.Join(w.typist.dir, "tls.key"), []byte("-----BEGIN X-----\nZmlyc3Q=\n-----END X-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.typist.fill = w.filled
	return w
}

// user returns the token of one who may do everything, and whom Vault can tell from others.
func (w *documented) user() string {
	w.t.Helper()
	w.write("sys/auth/userpass", map[string]any{"type": "userpass"})
	w.write("sys/policies/acl/everything", map[string]any{"policy": `path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }`})
	w.write("auth/userpass/users/ann", map[string]any{"password": docPassword, "token_policies": "everything"})
	login, err := w.Server.Client.Logical().WriteWithContext(w.t.Context(), "auth/userpass/login/ann", map[string]any{"password": docPassword})
	if err != nil {
		w.t.Fatal(err)
	}
	return login.Auth.ClientToken
}

var (
	rotationPath = regexp.MustCompile(`hyvve/rotations/ID(/[a-z-]+)?`)
	versionOf    = regexp.MustCompile(`hyvve/keys/([\w-]+)/(undelete|retire) version=\d+`)
	optional     = regexp.MustCompile(`\[(-[^\]]+)\]`)
	given        = regexp.MustCompile(`\b[A-Z_]+=… ?`)
)

// filled is a command with what is there in the place of what pages name: hosts, ID (of a rotation, or of an entry of the journal),
// NAME, the number of a version (the newest that is retained or undeleted), ….
func (w *documented) filled(command string) string {
	_, agents, err := w.Place("agents", 1)
	if err != nil {
		w.t.Fatal(err)
	}
	config := filepath.Join(agents, "sidecar.hcl")
	command = strings.NewReplacer(
		"db:5432/app", fmt.Sprintf("127.0.0.1:%d/hyvve", w.Postgres.Port), "db:5432", fmt.Sprintf("127.0.0.1:%d", w.Postgres.Port),
		"cache:6379", w.Redis.Addr, "queue:6379", w.Redis.Addr, "/etc/hyvve/sidecar.hcl", config, "--config=FILE", "--config="+config,
		"hyvve/journal/ID", "hyvve/journal/1", "after=ID", "after=1", "build/plugins/", bed.Tool("plugins")+"/", "rotations/ID", "rotations/"+w.id, "rotation=ID", "rotation="+w.id,
		"workloads/W/instances/I", "workloads/agents/instances/agents-1", "workloads/NAME/instances/INSTANCE", "workloads/agents/instances/agents-1",
		"workloads/NAME", "workloads/agents", "connections/NAME", "connections/main", "workloads/W", "workloads/agents",
		"keys/NAME", "keys/jwt-secret", "key=NAME", "key=jwt-secret", "rotations/KEY", "rotations/jwt-secret",
		"ACCESSOR/unlock/ROLE_ID", w.lockable(), "since=REVISION", "since=1", "secret_id_accessor=…", "secret_id_accessor="+w.secretID(),
	).Replace(command)
	command = given.ReplaceAllString(optional.ReplaceAllString(command, "$1"), "")
	command = strings.ReplaceAll(command, "--batch-size=N", "--batch-size=3")
	return versionOf.ReplaceAllStringFunc(command, func(found string) string {
		m := versionOf.FindStringSubmatch(found)
		return fmt.Sprintf("hyvve/keys/%s/%s version=%d", m[1], m[2], w.version(m[1], "retained", "undeleted"))
	})
}

// lockable is what Vault calls a login by AppRole that it may lock.
func (w *documented) lockable() string {
	methods, err := w.Server.Client.Sys().ListAuthWithContext(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	role, err := w.Server.Client.Logical().ReadWithContext(w.t.Context(), "auth/approle/role/agents/role-id")
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprintf("%s/unlock/%s", methods["approle/"].Accessor, role.Data["role_id"])
}

// secretID returns the accessor of a secret-id of a workload that nobody logs in with.
func (w *documented) secretID() string {
	made, err := w.Server.Client.Logical().WriteWithContext(w.t.Context(), "auth/approle/role/api/secret-id", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprint(made.Data["secret_id_accessor"])
}

// version is the newest one of a key in one of the states; 0: none.
func (w *documented) version(name string, states ...string) (newest int) {
	for number, state := range w.versions(name) {
		for _, s := range states {
			if s == state {
				newest = max(newest, number)
			}
		}
	}
	return newest
}

// prepare brings about what a command is for.
func (w *documented) prepare(command string) {
	w.t.Helper()
	switch path, version := rotationPath.FindStringSubmatch(command), versionOf.FindStringSubmatch(command); {
	case version != nil:
		name := strings.Replace(version[1], "NAME", "jwt-secret", 1)
		w.settle()
		if w.version(name, "retained", "undeleted") == 0 {
			w.follow(w.rotate(name), "done")
		}
		if version[2] == "retire" && w.version(name, "undeleted") == 0 {
			w.typist.types("prepare", fmt.Sprintf("vault write hyvve/keys/%s/undelete version=%d", name, w.version(name, "retained")))
		}
	case path != nil && path[1] != "" && path[1] != "/receipt": // it is about a rotation that runs
		w.settle()
		w.write("hyvve/keys/jwt-secret", map[string]any{"soak": "1h"})
		w.id = w.rotate("jwt-secret")
		w.reach(w.id, "soaking", "")
	case path != nil && w.id == "":
		w.id = w.rotate("jwt-secret")
	case strings.Contains(command, "ENCRYPTION_MASTER_KEY_OLD="):
		w.settle()
		now := w.newest()
		w.typist.env = append(w.typist.env, "ENCRYPTION_MASTER_KEY_OLD="+now["ENCRYPTION_MASTER_KEY"].Reveal(), "BETTER_AUTH_SECRET="+now["BETTER_AUTH_SECRET"].Reveal(), "DATABASE_URL="+now["DATABASE_URL"].Reveal())
	case strings.Contains(command, "hyvve/rotate") || strings.HasPrefix(command, "hyvve rotate"):
		w.settle()
	}
}

// settle lets all rotations end.
func (w *documented) settle() {
	w.t.Helper()
	w.write("hyvve/keys/jwt-secret", map[string]any{"soak": -1})
	why := ""
	kit.Until(w.t, "all rotations end", func() bool {
		ids, err := w.Engine.Rotations(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		for _, id := range ids {
			r, err := w.Engine.Rotation(w.t.Context(), id)
			if err != nil {
				w.t.Fatal(err)
			}
			if !r.Ended() {
				w.ends(r)
				why = id + ": " + r.State + " " + r.Step + ": " + r.NextGate
				return false
			}
			if r.Follow != "" && !slices.Contains(ids, r.Follow) {
				why = id + ": " + r.Follow + " follows"
				return false
			}
		}
		return true
	}, func() string { return why })
}

// ends helps a rotation to its end: it may have been paused, soak for an hour, or wait for somebody else.
func (w *documented) ends(r api.Rotation) {
	logical, path := w.Server.Client.Logical(), bed.Mount+"/rotations/"+r.ID
	if r.Paused {
		_, _ = logical.WriteWithContext(w.t.Context(), path+"/resume", nil)
	}
	if time.Duration(r.Soak)*time.Second > time.Minute {
		_, _ = logical.WriteWithContext(w.t.Context(), path+"/tune", map[string]any{"soak": "0s"})
	}
	if strings.Contains(r.NextGate, "confirm") {
		_, _ = logical.WriteWithContext(w.t.Context(), path+"/revert", nil)
	}
}

// restore takes back what a block has changed and others rely on.
func (w *documented) restore() {
	w.t.Helper()
	w.write("hyvve/config", map[string]any{"confirm_by": "any"})
	w.write("hyvve/keys/jwt-secret", map[string]any{"confirm_by": "", "soak": -1, "witness": ""})
	w.write("hyvve/keys/encryption-master-key", map[string]any{"ignore_columns": "none", "witness": "rows"})
	kit.Until(w.t, "agents follow the changes of their keys", func() bool {
		_, err := w.Server.Client.Logical().WriteWithContext(w.t.Context(), "hyvve/workloads/agents", map[string]any{"add_presents": "redis-url"})
		if err != nil {
			return false
		}
		read, err := w.Server.Client.Logical().ReadWithDataWithContext(w.t.Context(), "hyvve/workloads/agents", url.Values{})
		return err == nil && read.Data["change"] == ""
	})
}

// sameLabels wants the labels of an output to be among those that the page shows, and most of those.
func (w *documented) sameLabels(b block, said string) {
	w.t.Helper()
	shown := map[string]bool{}
	for _, line := range b.lines {
		if label, _, ok := strings.Cut(line, "  "); ok {
			shown[label] = true
		}
	}
	found := 0
	for line := range strings.Lines(said) {
		if label, _, ok := strings.Cut(strings.TrimRight(line, "\n"), "  "); ok && shown[label] {
			found++
		} else if ok && label != "" {
			w.t.Errorf("%s does not show %q", b.at(0), line)
		}
	}
	if found < 5 {
		w.t.Errorf("%s: %d lines of it are said:\n%s", b.at(0), found, said)
	}
}
