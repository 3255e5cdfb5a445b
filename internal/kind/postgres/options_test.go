// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"net/url"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// A URL that says whom its sessions act as is refused by name, however it is written; other options are not.
func TestURLThatSaysWhomSessionsActAs(t *testing.T) {
	k := New(nil)
	check := func(query string) (error, error) {
		_, value := k.Check(nil, key.NewValue("postgresql://app:pw@db/app?"+query))
		_, template := k.Normalize(kind.Options{login.OptionURL: "postgresql://db/app?" + query})
		return value, template
	}
	for _, options := range []string{
		"--role=none", "-crole=none", "-c role=x", "-c ROLE=x", "-c  role=x -c statement_timeout=1", "-c statement_timeout=1 -crole=x",
		"--session_authorization=x", "--session-authorization=x", "-c session_authorization=x", `-c\ro\le=x`, `-c r\ole=x`, "-Fc role=x", "-bc role=x", "-- role=x",
	} {
		value, template := check("options=" + url.PathEscape(options))
		for _, err := range []error{value, template} {
			if err == nil || !strings.Contains(err.Error(), "owner=") {
				t.Errorf("%s: %v", options, err)
			}
		}
	}
	for _, query := range []string{"role=none", "session_authorization=x", "Role=x"} {
		if value, template := check(query); value == nil || template == nil {
			t.Errorf("%s: %v, %v", query, value, template)
		}
	}
	for _, options := range []string{"-c statement_timeout=1", "-c search_path=role", "--application-name=role=x", "-c app.role=x", "-B role=x", `-c app.x=a\ --role=x`, ""} {
		if value, template := check("options=" + url.PathEscape(options)); value != nil || template != nil {
			t.Errorf("%s: %v, %v", options, value, template)
		}
	}
}

// What the server reads in options, it says itself.
func TestOptionsAsTheServerReadsThem(t *testing.T) {
	w := newWorld(t, "", nil)
	for _, options := range []string{"--work_mem=8MB", "-cwork_mem=8MB", "-c work_mem=8MB", "-c WORK_MEM=8MB", "--work-mem=8MB", `-c\w\ork_mem=8MB`, "-fs -c work_mem=8MB"} {
		u := w.admin + "&options=" + url.QueryEscape(options)
		var got string
		conn := w.dial(strings.ReplaceAll(u, "+", "%20"))
		w.ok(conn.QueryRow(t.Context(), "SHOW work_mem").Scan(&got))
		if names := set(options); got != "8MB" || len(names) != 1 || names[0] != "work_mem" {
			t.Errorf("%s: the server reads %s, we read %q", options, got, names)
		}
	}
}
