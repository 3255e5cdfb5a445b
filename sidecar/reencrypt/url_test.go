// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestURLs(t *testing.T) {
	for query, want := range map[string]struct {
		host, schema, binding string
		unprepared            bool
	}{
		"": {host: "db", binding: "prefer"},
		"pgbouncer=true&connection_limit=1&pool_timeout=10&socket_timeout=3": {host: "db", binding: "prefer", unprepared: true},
		"statement_cache_size=0":                        {host: "db", binding: "prefer", unprepared: true},
		"schema=app&application_name=x":                 {host: "db", schema: "app", binding: "prefer"},
		"sslmode=require&channel_binding=require":       {host: "db", binding: "require"},
		"host=/var/run/postgresql":                      {host: "/var/run/postgresql", binding: "prefer"},
		"supa=base-pooler.x&uselibpqcompat=true":        {host: "db", binding: "prefer"},
		"sslmode=require&sslcert=/nowhere/its/a-ca.pem": {host: "db", binding: "prefer"},
	} {
		d, err := parseURL("postgresql://u:p@db:6543/hyvve?" + query)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if d.config.Host != want.host || d.schema != want.schema || d.config.ChannelBinding != want.binding || (d.config.DefaultQueryExecMode == pgx.QueryExecModeExec) != want.unprepared {
			t.Errorf("%s: host %s, schema %q, binding %s, mode %v", query, d.config.Host, d.schema, d.config.ChannelBinding, d.config.DefaultQueryExecMode)
		}
		for name := range d.config.RuntimeParams {
			if name != "application_name" {
				t.Errorf("%s: %s would be sent to the server", query, name)
			}
		}
	}
}

// The sidecar goes where the application goes.
func TestHostsOfURLs(t *testing.T) {
	for text, want := range map[string]string{
		"postgresql://u:p@/x?host=/run/pg&port=7":                           "/run/pg 7",
		"postgresql://u:p@h1:1,h2:2/x?target_session_attrs=read-write":      "h1 1 h2 2",
		"postgresql://u:p@localhost:7/x?host=/cloudsql/x&connection_limit=": "/cloudsql/x 7",
		"postgresql://u:p@[::1]/x?sslmode=disable":                          "::1 5432",
		"postgresql://u:p@db/x?hostaddr=10.0.0.7&sslmode=disable":           "db 5432",
	} {
		d, err := parseURL(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		hosts := []string{fmt.Sprint(d.config.Host, " ", d.config.Port)}
		for _, f := range d.config.Fallbacks {
			hosts = append(hosts, fmt.Sprint(f.Host, " ", f.Port))
		}
		if got := strings.Join(slices.Compact(hosts), " "); got != want || d.config.User != "u" || d.config.Password != "p" || d.config.Database != "x" {
			t.Errorf("%s leads to %s, want %s", text, got, want)
		}
		if addrs, err := d.config.LookupFunc(t.Context(), "db"); strings.Contains(text, "hostaddr") && (err != nil || !slices.Equal(addrs, []string{"10.0.0.7"})) {
			t.Errorf("%s: db is at %v, %v", text, addrs, err)
		}
	}
}

// What is to be sent to the server keeps its spaces.
func TestOptionsOfTheServer(t *testing.T) {
	d, err := parseURL("postgresql://u:p@db/hyvve?options=-c%20role%3Dapp%20-c%20a.b%3D1%2B1&schema=x")
	if err != nil || d.config.RuntimeParams["options"] != "-c role=app -c a.b=1+1" {
		t.Errorf("options is %q (%v)", d.config.RuntimeParams["options"], err)
	}
}

func TestBadURLsHideThePassword(t *testing.T) {
	for _, url := range []string{
		"postgresql://u:canary-pw@db/x?sslmode=sometimes", "postgresql://u:canary-pw@db:port/x", "postgresql://u:canary-pw/x@db/x",
		"postgresql://u@db/x?password=canary-pw", "postgresql://u:canary-pw@db/x?passfile=/canary-pw",
		"postgresql://u:canary-pw%zz@db/x", "mysql://u:canary-pw@db/x", "postgresql://u:canary-pw@db/x?sslmod=disable",
		"postgresql://u:canary-pw@db/x?sslmode=require&sslaccept=strict&sslcert=/nowhere/canary-pw.pem", "canary-pw",
	} {
		_, err := parseURL(url)
		if err == nil {
			t.Errorf("%s is taken", url)
		} else if strings.Contains(err.Error(), "canary-pw") {
			t.Errorf("the error holds the password: %v", err)
		}
	}
}
