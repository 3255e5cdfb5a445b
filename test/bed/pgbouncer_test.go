// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// verifier is what PostgreSQL stores for a password (RFC 5803).
func verifier(t *testing.T, password string) string {
	t.Helper()
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	salted, err := pbkdf2.Key(sha256.New, password, salt, 4096, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored, encode := sha256.Sum256(mac("Client Key")), base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$4096:%s$%s:%s", encode(salt), encode(stored[:]), encode(mac("Server Key")))
}

// PgBouncer is never told a password: it asks the server for the verifier, and logs in with the keys that a client's login
// gave it. Both work with a verifier that was made elsewhere.
func TestPgBouncerPassesSCRAMOn(t *testing.T) {
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			b := ForTest(t)
			p, err := b.Postgres(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			mustQuery(t, p.AdminURL("postgres"), fmt.Sprintf("CREATE ROLE app LOGIN PASSWORD '%s'", verifier(t, "first")))
			g, err := b.PgBouncer(t.Context(), p, PgBouncerOptions{
				Mode: mode, AuthQuery: true, Settings: map[string]string{"server_idle_timeout": "1"},
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.NewDatabase(t.Context(), "later"); err != nil {
				t.Fatal(err)
			}
			for _, database := range []string{"postgres", "later"} {
				if got := mustQuery(t, g.URL(database, "app", "first"), "SELECT current_user")[0]["current_user"]; got != "app" {
					t.Errorf("logged in to %s as %q", database, got)
				}
			}
			if _, err := query(t.Context(), g.URL("postgres", "app", "wrong"), "SELECT 1"); !refused(err) {
				t.Errorf("a wrong password: %v", err)
			}
			g.Kill()
			if err := g.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			mustQuery(t, g.URL("postgres", "app", "first"), "SELECT 1")
			if pools, err := g.Console(t.Context(), "SHOW POOLS"); err != nil || len(pools) < 2 {
				t.Errorf("pools %v, %v", pools, err)
			}
		})
	}
}

// The keys that PgBouncer logs in with are of a verifier, not of a password: a new verifier for the same password ends
// what it can do for clients that are there, until one logs in again.
func TestPgBouncerNeedsALoginAfterANewVerifier(t *testing.T) {
	b := ForTest(t)
	p, err := b.Postgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mustQuery(t, p.AdminURL("postgres"), fmt.Sprintf("CREATE ROLE app LOGIN PASSWORD '%s'", verifier(t, "same")))
	g, err := b.PgBouncer(t.Context(), p, PgBouncerOptions{
		Mode: "transaction", AuthQuery: true, Settings: map[string]string{"query_wait_timeout": "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var clients []*pgconn.PgConn
	for range 2 {
		c, err := pgconn.Connect(t.Context(), g.URL("postgres", "app", "same"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
		clients = append(clients, c)
	}
	mustQuery(t, p.AdminURL("postgres"), fmt.Sprintf("ALTER ROLE app PASSWORD '%s'", verifier(t, "same")))
	if _, err := g.Console(t.Context(), "RECONNECT"); err != nil {
		t.Fatal(err)
	}
	if _, err := clients[0].Exec(t.Context(), "SELECT 1").ReadAll(); !refused(err) {
		t.Errorf("with keys of the old verifier: %v", err)
	}
	mustQuery(t, g.URL("postgres", "app", "same"), "SELECT 1")
	if _, err := clients[1].Exec(t.Context(), "SELECT 1").ReadAll(); err != nil {
		t.Errorf("with keys of the new verifier: %v", err)
	}
}

func TestPgBouncerHoldsUsersItself(t *testing.T) {
	b := ForTest(t)
	p, err := b.Postgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := verifier(t, "first")
	mustQuery(t, p.AdminURL("postgres"), fmt.Sprintf("CREATE ROLE app LOGIN PASSWORD '%s'", first))
	g, err := b.PgBouncer(t.Context(), p, PgBouncerOptions{Users: map[string]string{"app": first}})
	if err != nil {
		t.Fatal(err)
	}
	mustQuery(t, g.URL("postgres", "app", "first"), "SELECT 1")
	if err := g.SetUser(t.Context(), "app", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := query(t.Context(), g.URL("postgres", "app", "first"), "SELECT 1"); !refused(err) {
		t.Errorf("a user that it holds no more: %v", err)
	}
	if err := g.SetUser(t.Context(), "app", "first"); err != nil { // a password, where it was a verifier
		t.Fatal(err)
	}
	mustQuery(t, g.URL("postgres", "app", "first"), "SELECT 1")
}

func refused(err error) bool {
	var said *pgconn.PgError
	return errors.As(err, &said) && said.Code == "08P01" // it has no other one
}

func mustQuery(t *testing.T, url, sql string) []map[string]string {
	t.Helper()
	rows, err := query(t.Context(), url, sql)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
