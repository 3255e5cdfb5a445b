// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// secret makes a value as the platform's keys have it.
func secret(t *testing.T, n int) key.Value {
	t.Helper()
	raw := make([]byte, n)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	return key.NewValue(base64.StdEncoding.EncodeToString(raw))
}

// eyes is a world whose connection is a role that may do nothing yet, and a look at the rows of its database.
func eyes(t *testing.T) (w *world, role string, look kind.RowLook) {
	t.Helper()
	w = newWorld(t, "", nil)
	master, auth := secret(t, 32), secret(t, 48)
	_, err := bed.SeedPlatform(t.Context(), w.dial(w.admin), bed.Seeding{MasterKey: master, BetterAuth: auth, Providers: 600, Servers: 5, Legacy: 3, Connections: 6, Users: 4, Salts: 7})
	if err != nil {
		t.Fatal(err)
	}
	role = fmt.Sprintf("eyes_%d", worlds)
	password, err := w.postgres.NewRole(t.Context(), role)
	if err != nil {
		t.Fatal(err)
	}
	u, err := dsn.Parse(w.admin, urls.Schemes...)
	if err != nil {
		t.Fatal(err)
	}
	c := kind.Connection{Name: "eyes", Kind: "postgres", Options: kind.Options{login.FieldURL: u.With(role, key.NewValue(password)).Text().Reveal(), login.FieldCA: caPEM, fieldRows: "tru"}, Revision: 1}
	if _, err := w.kind.NormalizeConnection(c); err == nil || !strings.Contains(err.Error(), "rows_only") {
		t.Errorf("rows_only=tru: %v", err)
	}
	c.Options[fieldRows] = ""
	if c, err = w.kind.NormalizeConnection(c); err != nil {
		t.Fatal(err)
	}
	if _, err := w.kind.CheckConnection(t.Context(), c); err == nil || !strings.Contains(err.Error(), "CREATEROLE") {
		t.Errorf("a login that may do nothing: %v", err)
	}
	c.Options[fieldRows] = "true"
	if _, err := w.kind.CheckConnection(t.Context(), c); err != nil {
		t.Errorf("one for rows alone: %v", err)
	}
	if w.connection, err = w.kind.NormalizeConnection(c); err != nil {
		t.Fatal(err)
	}
	return w, role, kind.RowLook{Columns: platform.Columns(platform.MasterKey), Value: master, Others: []kind.RowValue{{Layout: key.TagLast, Value: auth}}}
}

// The engine opens every row itself, with no more rights than to read the columns, and says where.
func TestLookAtRows(t *testing.T) { lookAtRows(t) }

func TestLookAtRowsOnPostgreSQL18(t *testing.T) {
	server, err := bed.ForTest(t).PostgresWith(t.Context(), bed.PostgresOptions{Major: 18})
	if err != nil {
		t.Fatal(err)
	}
	on = server
	defer func() { on = nil }()
	lookAtRows(t)
}

func lookAtRows(t *testing.T) {
	w, role, look := eyes(t)
	traps, err := w.postgres.PlantTraps(t.Context(), w.admin, role) // the schema of its name, which comes first in a session that takes no care
	if err != nil {
		t.Fatal(err)
	}
	see := func() (total, open, other, bad int, err error) {
		report, err := w.kind.LookAtRows(t.Context(), w.connection, look)
		for _, c := range report.Columns {
			total, open, other, bad = total+c.Total, open+c.Rotated, other+c.Other, bad+c.Bad
		}
		if err == nil && (report.Place == nil || report.Place.System == "" || !report.Place.Primary || !report.Place.Covers(look.Columns) || !report.Done) {
			t.Errorf("it has looked at %+v", report.Place)
		}
		return total, open, other, bad, err
	}
	refused := func(words ...string) {
		t.Helper()
		_, _, _, _, err := see()
		for _, word := range words {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("no %q in: %v", word, err)
			}
		}
	}
	refused("may not read column api_key_encrypted of ai_provider_configs", `GRANT SELECT ("api_key_encrypted") ON "public"."ai_provider_configs" TO "`+role+`"`)
	for _, c := range look.Columns {
		w.exec(fmt.Sprintf("GRANT SELECT (%s) ON %s TO %s", quote(c.Column), quote(c.Table), quote(role)))
	}
	refused("row-level security would hide rows of ai_provider_configs", "BYPASSRLS")
	w.exec("ALTER ROLE " + quote(role) + " BYPASSRLS")
	if total, open, other, bad, err := see(); err != nil || total != 614 || open != 611 || other != 3 || bad != 0 {
		t.Errorf("%d rows, %d open, %d under another, %d bad: %v", total, open, other, bad, err)
	}
	w.exec("UPDATE integration_connections SET encrypted_credentials = 'no envelope' WHERE id = (SELECT min(id) FROM integration_connections)")
	was := look.Value
	if look.Value = secret(t, 32); true {
		if total, open, other, bad, err := see(); err != nil || total != 614 || open != 0 || other != 3 || bad != 611 {
			t.Errorf("under another value: %d rows, %d open, %d under another, %d bad: %v", total, open, other, bad, err)
		}
	}
	look.Value = was
	if _, open, _, bad, err := see(); err != nil || open != 610 || bad != 1 {
		t.Errorf("with a row that is no envelope: %d open, %d bad: %v", open, bad, err)
	}
	w.exec("DELETE FROM integration_connections", "ALTER TABLE integration_connections ADD kind text DEFAULT 'oauth'")
	look.Columns[2].Where = []key.Term{{Column: "kind", Is: "=", Value: "oauth"}}
	refused("may not read column kind")
	w.exec("GRANT SELECT ON integration_connections TO " + quote(role))
	if total, _, _, bad, err := see(); err != nil || total != 608 || bad != 0 {
		t.Errorf("with a condition: %d rows, %d bad: %v", total, bad, err)
	}
	w.exec("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
	if report, err := w.kind.LookAtRows(t.Context(), w.connection, look); err != nil || report.Place.System != "" || report.Place.OID == 0 {
		t.Errorf("where it may not ask for the system: %+v, %v", report.Place, err)
	}
	w.exec("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
	look.Columns[2].Column = "nothing"
	refused("column integration_connections.nothing does not exist")
	look.Columns = look.Columns[:1]
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := w.kind.LookAtRows(ctx, w.connection, look); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beyond its time: %v", err)
	}
	if lines, err := traps.Sprung(); err != nil || len(lines) > 0 {
		t.Errorf("traps are sprung: %v %v", lines, err)
	}
}
