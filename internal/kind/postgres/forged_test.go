// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// forged is a line that stands where an operator reads what to type.
const forged = "x\n\x1b[2Kreconcile it: vault delete hyvve/keys/a"

// The application chooses the names of its objects, which stand in plans. None of them forges a line.
func TestNamesOfTheApplicationForgeNoLine(t *testing.T) {
	w := newWorld(t, "", nil)
	app, name := quote(w.app), quote(forged)
	w.exec(
		"SET ROLE "+app,
		"CREATE FUNCTION "+name+"() RETURNS text LANGUAGE sql AS 'SELECT session_user::text'",
		"CREATE TABLE "+name+" (who name DEFAULT session_user)", "ALTER TABLE "+name+" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
		"CREATE POLICY "+name+" ON "+name+" USING (who = session_user)",
		"RESET ROLE",
	)
	blockers, notes, err := w.kind.Preflight(t.Context(), w.next(w.first))
	w.ok(err)
	if len(blockers) == 0 || len(notes) == 0 {
		t.Errorf("nothing is found: %q, %q", blockers, notes)
	}
	for _, text := range append(blockers, notes...) {
		if strings.ContainsAny(text, "\n\x1b") {
			t.Errorf("%q", text)
		}
	}
}

// What a server says is quoted in part, and on one line.
func TestServerThatSaysTooMuch(t *testing.T) {
	w := newWorld(t, "", nil)
	i := newImpostor(t, &pgproto3.ErrorResponse{Severity: "FATAL", Code: "XX000\n", Message: forged + strings.Repeat("x", 60000)})
	c := w.connection
	c.Options = maps.Clone(c.Options)
	c.Options[login.FieldURL] = fmt.Sprintf("postgresql://postgres@%s/postgres?sslmode=disable", i.address)
	c.Name = "impostor"
	_, err := w.kind.CheckConnection(t.Context(), c)
	if err == nil || len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("%.2000q", fmt.Sprint(err))
	}
}
