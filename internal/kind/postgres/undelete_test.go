// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// A version whose role is the current version's, or the administrator's, is refused before anything is stored.
func TestCheckUndelete(t *testing.T) {
	k := key.Key{Name: "database-url", Kind: "postgres"}
	version := func(n int, user string) key.Version {
		return key.Version{Number: n, Value: key.NewValue("postgres://" + user + ":secret@db:5432/app")}
	}
	for _, tt := range []struct{ from, to, words string }{
		{"new", "old", ""},
		{"imported", "imported", "version 3 logs in as role imported, as version 5 does, which is the current one; give its client the current value; or rotate the key"},
		{"new", "root", "connection main logs in as root, the role of version 3; give the connection an administrator of its own"},
	} {
		c := kind.Change{Key: k, From: version(5, tt.from), To: version(3, tt.to)}
		c.Connection = kind.Connection{Name: "main", Options: kind.Options{login.FieldURL: "postgres://root@db:5432/app"}}
		err := (&Kind{}).CheckUndelete(c)
		if (err == nil) != (tt.words == "") || err != nil && (!strings.Contains(err.Error(), tt.words) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("version 3 of %s beside version 5 of %s: %v, want %q", tt.to, tt.from, err, tt.words)
		}
	}
}

// Every version whose role is free is let in again, an imported one, too, acts as its owner, and is locked again; by an
// administrator who is no superuser. One whose role a later version has is refused, and that one stays as it is.
func TestUndelete(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	w.administrator(w.app + "_root")
	w.exec("GRANT pg_signal_backend, pg_monitor TO " + quote(w.app+"_root"))
	if w.modern() {
		w.exec("GRANT " + quote(w.app) + " TO " + quote(w.app+"_root") + " WITH ADMIN OPTION")
	}
	w.first.Fingerprint = fingerprints.Of(w.key.Name, w.first.Value)
	versions := []key.Version{w.first}
	for range 5 { // version 6 has the role of version 2
		versions = append(versions, w.rotate(w.next(versions[len(versions)-1])))
	}
	current := versions[len(versions)-1]
	k := w.key
	k.Versions = nil
	for _, v := range versions {
		v.State = key.Undeleted
		if v.Number == current.Number {
			v.State = key.Current
		}
		k.Versions = append(k.Versions, v)
	}
	for _, old := range versions[:len(versions)-1] {
		c := kind.Change{Key: k, From: current, To: old, Connection: w.connection}
		back := kind.Change{Key: k, From: old, To: current, Connection: w.connection}
		err := w.kind.Undelete(ctx, c)
		if old.Number == 2 {
			if err == nil || !strings.Contains(err.Error(), "which is the current one") || w.login(old) == nil {
				t.Errorf("version 2, whose role version 6 has: %v", err)
			}
			continue
		}
		if err != nil {
			t.Errorf("version %d: %v", old.Number, err)
			continue
		}
		w.ok(w.kind.Verify(ctx, c))
		if acts := w.actsAs(old); acts != w.app {
			t.Errorf("version %d acts as %s", old.Number, acts)
		}
		w.ok(w.login(current))
		w.ok(w.kind.Retire(ctx, back))
		if w.login(old) == nil {
			t.Errorf("version %d logs in after its end", old.Number)
		}
	}
	w.ok(w.login(current))
	w.ok(w.kind.Verify(ctx, kind.Change{Key: k, To: current, Connection: w.connection}))
}
