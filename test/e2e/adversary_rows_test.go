// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	facts "github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reencrypt"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// vaultOfRows is a Vault and a PostgreSQL with the platform's rows, of which encryption-master-key protects some. No instance
// runs: tests let some do, with tokens of the shipped policy.
type vaultOfRows struct {
	t        *testing.T
	vault    *bed.Vault
	engine   *client.Client // with the root token
	postgres *bed.Postgres
	password string // of app, who owns the tables
	seeded   []bed.Row
}

const masterKey = "encryption-master-key"

func newVaultOfRows(t *testing.T) *vaultOfRows {
	t.Helper()
	b := bed.ForTest(t)
	w := &vaultOfRows{t: t}
	var err error
	ok := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.vault, err = b.Vault(t.Context(), bed.VaultOptions{})
	ok()
	w.postgres, err = b.Postgres(t.Context())
	ok()
	w.engine = client.New(w.vault.Client, bed.Mount)
	w.password, err = w.postgres.NewRole(t.Context(), "app")
	ok()
	admin, err := w.postgres.NewDatabase(t.Context(), "hyvve")
	ok()
	w.exec(admin, "GRANT ALL ON DATABASE hyvve TO app", "GRANT ALL ON SCHEMA public TO app")
	conn, err := pgx.Connect(t.Context(), w.database("hyvve"))
	ok()
	master, auth := randomValue(t, 32), randomValue(t, 48)
	w.seeded, err = bed.SeedPlatform(t.Context(), conn, bed.Seeding{MasterKey: master, BetterAuth: auth, Providers: 6, Servers: 4, Connections: 5, Users: 1, Salts: 2})
	ok()
	_ = conn.Close(t.Context())
	w.write("hyvve/config", map[string]any{"soak": "0s", "observe": "0s"})
	w.write("hyvve/keys/"+masterKey, map[string]any{
		"kind": "token", "env": facts.MasterKey, "format": "base64", "rule": masterKey, "value": master.Reveal(),
		"protects": []string{"ai_provider_configs.api_key_encrypted:tag-first", "mcp_server_configs.api_key_encrypted:tag-first", "integration_connections.encrypted_credentials:tag-first"},
	})
	w.write("hyvve/workloads/api", map[string]any{"presents": masterKey, "verifies": masterKey, "reencrypts": true, "min_instances": 1, "max_unavailable": "100%"})
	w.write("hyvve/workloads/reader", map[string]any{"verifies": masterKey, "min_instances": 0})
	return w
}

func randomValue(t *testing.T, n int) key.Value {
	t.Helper()
	raw := make([]byte, n)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	return key.NewValue(base64.StdEncoding.EncodeToString(raw))
}

// database is the application's URL of a database.
func (w *vaultOfRows) database(name string) string {
	return w.postgres.URL(name, "app", w.password)
}

func (w *vaultOfRows) exec(url string, statements ...string) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(w.t.Context()) //nolint:errcheck // nothing is pending
	for _, s := range statements {
		if _, err := conn.Exec(w.t.Context(), s); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *vaultOfRows) write(path string, data map[string]any) {
	w.t.Helper()
	if _, err := w.vault.Client.Logical().WriteWithContext(w.t.Context(), path, data); err != nil {
		w.t.Fatal(err)
	}
}

// witness lets the engine look at the rows itself, by a login that may read their columns and nothing else.
func (w *vaultOfRows) witness() {
	w.t.Helper()
	password, err := w.postgres.NewRole(w.t.Context(), "witness")
	if err != nil {
		w.t.Fatal(err)
	}
	w.exec(w.postgres.AdminURL("hyvve"), "ALTER ROLE witness BYPASSRLS", "GRANT SELECT (api_key_encrypted) ON ai_provider_configs, mcp_server_configs TO witness",
		"GRANT SELECT (encrypted_credentials) ON integration_connections TO witness")
	w.write("hyvve/connections/rows", map[string]any{"kind": "postgres", "rows_only": true, "url": w.postgres.URL("hyvve", "witness", password)})
	w.write("hyvve/keys/"+masterKey, map[string]any{"witness": "rows"})
}

// doer does a piece of work, or says so.
type doer func(ctx context.Context, work workload.Work, accepts map[string][]key.Value) (workload.WorkReport, error)

// honest does it in a database, as a sidecar does.
func honest(url string) doer { return reencrypt.NewWorker(url, reencrypt.Options{}).Do }

// liar has no database and answers each piece of work the same. It copies where others have looked.
func liar(place *workload.Place) doer {
	return func(_ context.Context, work workload.Work, _ map[string][]key.Value) (workload.WorkReport, error) {
		report := workload.WorkReport{Done: true, Place: place}
		for _, c := range work.Columns {
			report.Columns = append(report.Columns, workload.ColumnReport{Column: c.String(), Total: 5, Rotated: 5})
		}
		return report, nil
	}
}

// instance runs one of api, with a token of its own, until the function that it returns is called.
func (w *vaultOfRows) instance(name string, do doer) (stop func()) {
	w.t.Helper()
	vault, err := w.vault.Client.CloneWithHeaders()
	if err != nil {
		w.t.Fatal(err)
	}
	vault.SetToken(shippedToken(w.t, w.vault.Client, "api"))
	c := client.New(vault, bed.Mount)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var b client.Bundle
		defer func() { _ = c.Leave(context.WithoutCancel(ctx), "api", name, b.Secret) }()
		for ctx.Err() == nil {
			next, err := c.Read(ctx, client.Reader{Workload: "api", Instance: name, Secret: b.Secret})
			if err == nil {
				b = next
				r := client.Report{Workload: "api", Instance: name, Secret: b.Secret, Etag: b.Etag, Proof: "etag", Healthy: true}
				for _, work := range b.Work {
					report, err := do(ctx, work, b.Accepts)
					if report.ID = work.ID; err != nil {
						report.Done, report.Error = false, err.Error()
					}
					r.Work = append(r.Work, report)
				}
				_, err = c.Report(ctx, r)
			}
			if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
				w.t.Logf("%s: %v", name, err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	w.t.Cleanup(stop)
	return stop
}

// until polls a rotation until it is as it should be.
func (w *vaultOfRows) until(id, what string, is func(api.Rotation) bool) api.Rotation {
	w.t.Helper()
	var r api.Rotation
	for range 600 {
		var err error
		if r, err = w.engine.Rotation(w.t.Context(), id); err != nil {
			w.t.Fatal(err)
		}
		if is(r) {
			return r
		}
		select {
		case <-w.t.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	w.t.Fatalf("%s: it is %s %s: %s", what, r.State, r.Step, r.NextGate)
	return r
}

// kept fails the test if a version of the master key was erased, or a row opens under none.
func (w *vaultOfRows) kept(where string) {
	w.t.Helper()
	read, err := w.vault.Client.Logical().ReadWithDataWithContext(w.t.Context(), "hyvve/keys/"+masterKey, url.Values{"detailed": {"true"}})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, v := range read.Data["versions"].([]any) {
		if state := v.(map[string]any)["state"]; state == "destroyed" || state == "aborted" {
			w.t.Fatalf("%s: version %v is %v, and rows need it", where, v.(map[string]any)["version"], state)
		}
	}
}

// open counts the rows that open under the current version, and the others.
func (w *vaultOfRows) open(url string) (open, closed int) {
	w.t.Helper()
	b, err := w.engine.Creds(w.t.Context(), "reader", "")
	if err != nil {
		w.t.Fatal(err)
	}
	ring, err := envelope.NewKeyring(key.TagFirst, b.Accepts[facts.MasterKey][0])
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := pgx.Connect(w.t.Context(), url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(w.t.Context()) //nolint:errcheck // nothing is pending
	for _, row := range w.seeded {
		if row.Layout != key.TagFirst {
			continue
		}
		var text string
		if err := conn.QueryRow(w.t.Context(), fmt.Sprintf("SELECT %s FROM %s WHERE id = $1", row.Column, row.Table), row.ID).Scan(&text); err != nil {
			w.t.Fatal(err)
		}
		e, err := envelope.Parse(text)
		if err != nil {
			w.t.Fatal(err)
		}
		if plaintext, err := ring.Open(e); err == nil && string(plaintext) == row.Plaintext {
			open++
		} else {
			closed++
		}
	}
	return open, closed
}

// rotateAtOnce starts a rotation whatever is known of its witnesses, as one must be able to where the key is compromised.
func (w *vaultOfRows) rotateAtOnce() string {
	w.t.Helper()
	s, err := w.vault.Client.Logical().WriteWithContext(w.t.Context(), "hyvve/rotate", map[string]any{"key": masterKey, "compromised": true})
	if err != nil {
		w.t.Fatal(err)
	}
	if !strings.Contains(strings.Join(s.Warnings, "; "), "the rotation will wait before the old value is erased") {
		w.t.Errorf("it does not warn: %v", s.Warnings)
	}
	return s.Data["id"].(string)
}

// refused fails the test unless a rotation is blocked by what is wrong with the witness, once the rows were counted.
func (w *vaultOfRows) refused(words ...string) {
	w.t.Helper()
	for range 300 {
		s, err := w.vault.Client.Logical().WriteWithContext(w.t.Context(), "hyvve/rotate", map[string]any{"key": masterKey, "dry_run": true, "detailed": true})
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.Contains(fmt.Sprint(s.Data["blockers"]), words[0]) {
			break
		}
		select {
		case <-w.t.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	_, err := w.engine.Rotate(w.t.Context(), "", masterKey)
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			w.t.Errorf("no %q in: %v", word, err)
		}
	}
}

func atErase(r api.Rotation) bool { return r.State == "retiring" && r.Step == "erase" }

func says(words ...string) func(api.Rotation) bool {
	return func(r api.Rotation) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(r.NextGate, word) })
	}
}

// found reports whether a witness has found rows of the version that goes, by the timeline.
func found(witness string) func(api.Rotation) bool {
	return func(r api.Rotation) bool {
		return slices.ContainsFunc(r.Timeline, func(e api.Event) bool {
			return strings.Contains(e.Reason, "rows do not open under version 2, by "+witness)
		})
	}
}

// An instance without a database answers each piece of work with "done, 0 left", as often as it likes, under as many names as it
// likes. An honest one beside it finds the rows and brings them over.
func TestAdversaryLiesAboutRows(t *testing.T) {
	w := newVaultOfRows(t)
	place := &workload.Place{System: "1", Database: "hyvve", OID: 1, Primary: true}
	for _, c := range facts.Columns(facts.MasterKey) {
		place.Tables = append(place.Tables, workload.PlaceTable{Column: c.String(), OID: 1})
	}
	stop := w.instance("api-1", liar(place))
	if _, err := w.engine.Rotate(w.t.Context(), "", masterKey); err == nil || !strings.Contains(err.Error(), "two independent witnesses") {
		t.Errorf("a rotation with one witness: %v", err)
	}
	id := w.rotateAtOnce()
	w.until(id, "the liar is alone", atErase)
	r := w.until(id, "the gate says what is missing", says("api/api-1 has opened all rows, and is one witness", "witness=CONNECTION", "accept-witness"))
	w.kept("with one liar")
	w.instance("api-2", honest(w.database("hyvve")))
	w.until(id, "an honest instance finds the rows", found("api/api-2"))
	w.kept("once an honest instance has found the rows")
	stop()
	w.instance("api-3", honest(w.database("hyvve")))
	w.until(id, "both honest instances have brought the rows over", func(r api.Rotation) bool { return r.State == "done" })
	if open, closed := w.open(w.database("hyvve")); closed != 0 || open != 15 {
		t.Errorf("%d rows open, %d are lost; it had said %s", open, closed, r.NextGate)
	}
}

// The sidecar's database URL leads to a copy, without any malice. The engine looks itself, by a connection to the real one.
func TestAdversaryStaleCopy(t *testing.T) {
	w := newVaultOfRows(t)
	w.exec(w.postgres.AdminURL("postgres"), "CREATE DATABASE copy TEMPLATE hyvve", "GRANT ALL ON DATABASE copy TO app")
	w.witness()
	stop := w.instance("api-1", honest(w.database("copy")))
	w.refused("where connection rows, its witness, leads to and where api/api-1 has counted the rows")
	id := w.rotateAtOnce()
	w.until(id, "the engine finds the rows", found("the engine by connection rows"))
	w.kept("once the engine has looked")
	stop()
	w.instance("api-1b", honest(w.database("hyvve")))
	w.until(id, "it is done with the right URL", func(r api.Rotation) bool { return r.State == "done" })
	if open, closed := w.open(w.database("hyvve")); closed != 0 || open != 15 {
		t.Errorf("%d rows open, %d are lost", open, closed)
	}
}

// Where nobody has written under the old version since, a copy looks as the real one does. That two witnesses have looked at
// different databases is said, with both, and keeps the value.
func TestAdversaryWitnessesOfTwoDatabases(t *testing.T) {
	w := newVaultOfRows(t)
	w.exec(w.postgres.AdminURL("postgres"), "CREATE DATABASE copy TEMPLATE hyvve", "GRANT ALL ON DATABASE copy TO app")
	w.exec(w.postgres.AdminURL("hyvve"), "DELETE FROM ai_provider_configs", "DELETE FROM mcp_server_configs", "DELETE FROM integration_connections")
	w.witness()
	w.instance("api-1", honest(w.database("copy")))
	w.refused("database hyvve of system …", "database copy of system …")
	id := w.rotateAtOnce()
	w.until(id, "the gate names both", says("different databases", "database copy of system …", "database hyvve of system …", "the engine by connection rows"))
	w.kept("with witnesses of two databases")
}
