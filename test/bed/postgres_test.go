// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestPostgresComesBackAfterKill(t *testing.T) {
	b := ForTest(t)
	p, err := b.Postgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	url, err := p.NewDatabase(t.Context(), "kept")
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// It is known to serve also where the administrator has a password that the bed was not told.
	mustQuery(t, p.AdminURL("postgres"), "ALTER ROLE postgres PASSWORD 'another'; CHECKPOINT")
	p.Kill()
	if err := p.Start(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPostgresVersionsAndSettings(t *testing.T) {
	b := ForTest(t)
	for _, version := range []int{0, 18} {
		p, err := b.PostgresWith(t.Context(), PostgresOptions{
			Major: version, Settings: map[string]string{"shared_preload_libraries": "pg_stat_statements", "synchronous_commit": "on"},
		})
		if err != nil {
			t.Fatal(err)
		}
		rows := mustQuery(t, p.AdminURL("postgres"), `CREATE EXTENSION pg_stat_statements; SELECT pg_stat_statements_reset();
			SELECT current_setting('server_version_num')::int / 10000 AS major, current_setting('synchronous_commit') AS commits`)
		last := rows[len(rows)-1]
		if version != 0 && last["major"] != fmt.Sprint(version) || last["commits"] != "on" {
			t.Errorf("asked for %d: %v", version, last)
		}
	}
	if _, err := b.PostgresWith(t.Context(), PostgresOptions{Major: 9}); err == nil || !strings.Contains(err.Error(), "no PostgreSQL 9") {
		t.Errorf("a version that is not there: %v", err)
	}
}

func TestPostgresServesTLS(t *testing.T) {
	for _, version := range []int{0, 18} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			b := ForTest(t)
			p, err := b.PostgresWith(t.Context(), PostgresOptions{Major: version, TLS: true, HBA: []string{
				"hostssl all bare 127.0.0.1/32 cert",
				"hostssl all both 127.0.0.1/32 scram-sha-256 clientcert=verify-full",
			}})
			if err != nil {
				t.Fatal(err)
			}
			ca, err := b.Authority()
			if err != nil {
				t.Fatal(err)
			}
			password, certs := map[string]string{}, map[string]Certificate{}
			for _, role := range []string{"bare", "both", "app"} {
				if password[role], err = p.NewRole(t.Context(), role); err != nil {
					t.Fatal(err)
				}
				if certs[role], err = ca.Client(role); err != nil {
					t.Fatal(err)
				}
			}
			for _, tt := range []struct {
				name, url string
				works     bool
			}{
				{"a password", p.URL("postgres", "app", password["app"]), true},
				{"without TLS", strings.Replace(p.URL("postgres", "app", password["app"]), "verify-full", "disable", 1), false},
				{"without our authority", strings.Split(p.URL("postgres", "app", password["app"]), "&sslrootcert")[0], false},
				{"a certificate alone", p.CertURL("postgres", "bare", "", certs["bare"]), true},
				{"that of another", p.CertURL("postgres", "bare", "", certs["both"]), false},
				{"both", p.CertURL("postgres", "both", password["both"], certs["both"]), true},
				{"the password alone", p.URL("postgres", "both", password["both"]), false},
			} {
				if _, err := query(t.Context(), tt.url, "SELECT 1"); (err == nil) != tt.works {
					t.Errorf("%s: %v", tt.name, err)
				}
			}
			g, err := b.PgBouncer(t.Context(), p, PgBouncerOptions{AuthQuery: true})
			if err != nil {
				t.Fatal(err)
			}
			mustQuery(t, g.URL("postgres", "app", password["app"]), "SELECT 1")
		})
	}
}

// A replica that does not replay has no role that is made meanwhile, and one that was away catches up.
func TestPostgresReplica(t *testing.T) {
	for _, o := range []PostgresOptions{{}, {Major: 18, TLS: true}} {
		t.Run(fmt.Sprint(o.Major), func(t *testing.T) {
			p, err := ForTest(t).PostgresWith(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			r, err := p.Replica(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := r.PauseReplay(t.Context()); err != nil {
				t.Fatal(err)
			}
			password, err := p.NewRole(t.Context(), "app")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := query(t.Context(), r.URL("postgres", "app", password), "SELECT 1"); err == nil {
				t.Error("the role is at a replica that does not replay")
			}
			if err := r.ResumeReplay(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := r.AwaitReplay(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := mustQuery(t, r.URL("postgres", "app", password), "SELECT pg_is_in_recovery() AS is")[0]["is"]; got != "t" {
				t.Errorf("pg_is_in_recovery: %s", got)
			}
			r.Kill()
			mustQuery(t, p.AdminURL("postgres"), "ALTER ROLE app PASSWORD 'second'")
			if err := r.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := r.AwaitReplay(t.Context()); err != nil {
				t.Fatal(err)
			}
			mustQuery(t, r.URL("postgres", "app", "second"), "SELECT 1")
		})
	}
}
