// SPDX-License-Identifier: Apache-2.0

package dsn

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// forms are URLs and where they lead, as "database hosts", or a part of the reason for which we refuse them.
var forms = []struct{ url, leads, refused string }{
	// What stands before the path.
	{url: "postgresql://u:p@db/app", leads: "app db:5432"},
	{url: "postgres://u:p@db:6543/app", leads: "app db:6543"},
	{url: "postgresql://u:p@10.0.0.7:06543/app", leads: "app 10.0.0.7:6543"},
	{url: "postgresql://u%40x:p%2F%3A%40%25@db/a%20b%2Fc", leads: "a b/c db:5432"},
	{url: "postgresql://u:p@[::1]/app", leads: "app [::1]:5432"},
	{url: "postgresql://u:p@[2001:db8::7]:6543/app", leads: "app [2001:db8::7]:6543"},
	{url: "postgresql://u:p@[fe80::1%25eth0]:1/app", leads: "app [fe80::1%eth0]:1"},
	{url: "postgresql://u:p@h1:1,h2:2/app", leads: "app h1:1,h2:2"},
	{url: "postgresql://u:p@h1,h2/app", leads: "app h1:5432,h2:5432"},
	{url: "postgresql://u:p@h1,h2:2,[::1]:3/app?target_session_attrs=read-write", leads: "app h1:5432,h2:2,[::1]:3"},
	{url: "postgresql://u:p@%2Frun%2Fpostgresql/app", leads: "app /run/postgresql/.s.PGSQL.5432"},
	{url: "postgresql://u:p@%2frun%2fpostgresql:6543/app", leads: "app /run/postgresql/.s.PGSQL.6543"},
	{url: "postgresql://u:p@h1%2Ch2/app", leads: "app h1:5432,h2:5432"},
	// Cloud SQL's form, Prisma's, and what else the query says.
	{url: "postgresql://u:p@/app?host=/cloudsql/project:region:name", leads: "app /cloudsql/project:region:name/.s.PGSQL.5432"},
	{url: "postgresql://u:p@/app?host=/run/pg&port=6543", leads: "app /run/pg/.s.PGSQL.6543"},
	{url: "postgresql://u:p@localhost/app?host=/cloudsql/x", leads: "app /cloudsql/x/.s.PGSQL.5432"},
	{url: "postgresql://u:p@localhost:6543/app?host=%2Fcloudsql%2Fx", leads: "app /cloudsql/x/.s.PGSQL.6543"},
	{url: "postgresql://u:p@/app?host=h1,h2&port=1,2", leads: "app h1:1,h2:2"},
	{url: "postgresql://u:p@/app?host=h1,/run/pg&port=7", leads: "app h1:7,/run/pg/.s.PGSQL.7"},
	{url: "postgresql://u:p@/app?host=::1&port=7", leads: "app [::1]:7"},
	{url: "postgresql://u:p@db/app?port=7", leads: "app db:7"},
	{url: "postgresql://u:p@db:7/app?port=7", leads: "app db:7"},
	{url: "postgresql://u:p@db/app?host=other", leads: "app other:5432"},
	{url: "postgresql://u:p@db/app?p%6Frt=7&h%6Fst=other", leads: "app other:7"},
	{url: "postgresql://u:p@db/app?dbname=app", leads: "app db:5432"},
	{url: "postgresql://u:p@db/app?sslmode=verify-full&sslrootcert=/etc/ssl/ca.pem&application_name=x&connect_timeout=3&channel_binding=prefer", leads: "app db:5432"},
	{url: "postgresql://u:p@db/app?ssl=true&", leads: "app db:5432"},
	// hostaddr is libpq's alone.
	{url: "postgresql://u:p@db.example/app?hostaddr=10.0.0.7", leads: "app db.example:5432 (10.0.0.7)"},
	{url: "postgresql://u:p@/app?hostaddr=10.0.0.7&port=7", leads: "app 10.0.0.7:7"},
	{url: "postgresql://u:p@h1,h2:2/app?hostaddr=10.0.0.7,::1", leads: "app h1:5432 (10.0.0.7),h2:2 (::1)"},
	{url: "postgresql://u:p@10.0.0.8/app?hostaddr=10.0.0.7", refused: "another address"},
	{url: "postgresql://u:p@localhost/app?hostaddr=10.0.0.7", refused: "another address"},
	{url: "postgresql://u:p@/app?host=/run/pg&hostaddr=10.0.0.7", refused: "another address"},
	{url: "postgresql://u:p@h1,h2/app?hostaddr=10.0.0.7", refused: "number of addresses"},
	{url: "postgresql://u:p@h1/app?hostaddr=name", refused: "not an IP address"},
	// What clients read differently, or not at all.
	{url: "postgresql://u:p@q:r@db/app", refused: "%40"},
	{url: "postgresql://u:p@db/app#x", refused: "%23"},
	{url: "postgresql://u:p@db/app?x=y#z", refused: "%23"},
	{url: "postgresql://u:p%00@db/app", refused: "%00"},
	{url: "postgresql://u:p@db/app%00", refused: "control character"},
	{url: "postgresql://u:p@db/app/more", refused: "'/'"},
	{url: "postgresql://u:p@db/%zz", refused: "percent-encoded"},
	{url: "postgresql://u:p@db%zz/app", refused: "percent-encoded"},
	{url: "postgresql://u:p@db/app?host=%zz", refused: "percent-encoded"},
	{url: "postgresql://u:p@db:1/app?port=2", refused: "clients differ"},
	{url: "postgresql://u:p@%2Frun%2Fpg/app?host=other", refused: "leave one out"},
	{url: "postgresql://u:p@db/app?host=a&host=b", refused: "twice"},
	{url: "postgresql://u:p@db/app?host=a&h%6Fst=b", refused: "twice"},
	{url: "postgresql://u:p@db/app?sslmode=disable&sslmode=require", refused: "twice"},
	{url: "postgresql://u:p@db/app?Host=a", refused: "lower case"},
	{url: "postgresql://u:p@db/app?host=", refused: "empty"},
	{url: "postgresql://u:p@/app?host=/run/a+b", refused: "%2B"},
	{url: "postgresql://u:p@/app?host=a,,b", refused: "is empty"},
	{url: "postgresql://u:p@h1,/app", refused: "is empty"},
	{url: "postgresql://u:p@/app?xhost=a", refused: "names no host"},
	{url: "postgresql://u:p@/app?host=[::1]", refused: "brackets"},
	{url: "postgresql://u:p@/app?host=@abstract", refused: "@"},
	{url: "postgresql://u:p@/app?host=run/pg", refused: "absolute"},
	{url: "postgresql://u:p@::1/app", refused: "port"},
	{url: "postgresql://u:p@[::1/app", refused: "[address]"},
	{url: "postgresql://u:p@[db]/app", refused: "IPv6"},
	{url: "postgresql://u:p@db:x/app", refused: "1 to 65535"},
	{url: "postgresql://u:p@db:0/app", refused: "1 to 65535"},
	{url: "postgresql://u:p@h1,h2,h3/app?port=1,2", refused: "ports"},
	{url: "postgresql://u:p@db/app?dbname=other", refused: "after the host"},
	{url: "postgresql://u:p@db/app?database=other", refused: "after the host"},
	{url: "postgresql://u:p@db/app?sslmode=maybe", refused: "sslmode"},
	{url: "postgresql://u:p@db/app?ssl=true&sslmode=disable", refused: "contradict"},
	{url: "postgresql://u:p@db/app?target_session_attrs=any-old", refused: "target_session_attrs"},
	{url: "postgresql://u:p@db/app?user=x", refused: `"user"`},
	{url: "postgresql://u:p@db/app?password=x", refused: `"password"`},
	{url: "postgresql://u:p@db/app?service=x", refused: `"service"`},
}

func TestFormsOfURLs(t *testing.T) {
	libpq, err := askLibpq(t)
	if err != nil {
		t.Logf("not compared with libpq: %v; scripts/setup brings it", err)
	}
	for _, f := range forms {
		got, err := Postgres(strings.ReplaceAll(f.url, "u:p", "u:canary"))
		if f.refused != "" {
			if err == nil || !strings.Contains(err.Error(), f.refused) || strings.Contains(err.Error(), "canary") {
				t.Errorf("%s: %v, want a refusal with %q", f.url, err, f.refused)
			}
			continue
		}
		if err != nil || got.Database+" "+got.Hosts.String() != f.leads {
			t.Errorf("%s leads to %s %s, %v, want %s", f.url, got.Database, got.Hosts, err, f.leads)
			continue
		}
		if got, err = Postgres(f.url); err != nil {
			t.Fatal(err)
		}
		if theirs, err := askPgx(f.url); err != nil || theirs != summary(got, false) {
			t.Errorf("%s: pgx reads %s (%v), we %s", f.url, theirs, err, summary(got, false))
		}
		if libpq != nil {
			if theirs := libpq[f.url]; theirs != summary(got, true) {
				t.Errorf("%s: libpq reads %s, we %s", f.url, theirs, summary(got, true))
			}
		}
	}
}

// summary is a reading for comparison.
func summary(t Target, addrs bool) string {
	var hosts []string
	for _, h := range t.Hosts {
		one := fmt.Sprintf("%s|%d", h.Host, h.Port)
		if addrs && h.Addr != "" {
			one += "|" + h.Addr
		}
		hosts = append(hosts, one)
	}
	return fmt.Sprintf("%s %s %s %s", t.User, t.Password.Reveal(), t.Database, strings.Join(hosts, ","))
}

func askPgx(text string) (string, error) {
	text = strings.ReplaceAll(text, "sslrootcert=/etc/ssl/ca.pem", "sslrootcert=")
	if strings.Contains(text, "@/app?hostaddr=") { // which pgx does not know
		text = strings.ReplaceAll(text, "hostaddr=", "host=")
	}
	c, err := pgconn.ParseConfig(text)
	if err != nil {
		return "", err
	}
	hosts := []string{fmt.Sprintf("%s|%d", c.Host, c.Port)}
	for _, f := range c.Fallbacks {
		hosts = append(hosts, fmt.Sprintf("%s|%d", f.Host, f.Port))
	}
	return fmt.Sprintf("%s %s %s %s", c.User, c.Password, c.Database, strings.Join(slices.Compact(hosts), ",")), nil
}

// libpqReads has libpq read the URLs on its standard input, and prints each one's options, or null.
const libpqReads = `
import ctypes, ctypes.util, json, sys
lib = ctypes.CDLL(ctypes.util.find_library("pq") or "libpq.so.5")
class Option(ctypes.Structure):
    _fields_ = [(n, ctypes.c_char_p) for n in ("keyword", "envvar", "compiled", "val", "label", "dispchar")] + [("dispsize", ctypes.c_int)]
lib.PQconninfoParse.restype = ctypes.POINTER(Option)
found = {}
for url in json.load(sys.stdin):
    options, n, read = lib.PQconninfoParse(url.encode(), None), 0, {}
    while options and options[n].keyword:
        if options[n].val is not None: read[options[n].keyword.decode()] = options[n].val.decode()
        n += 1
    found[url] = read if options else None
json.dump(found, sys.stdout)
`

// askLibpq returns libpq's reading of all forms that we accept.
func askLibpq(t *testing.T) (map[string]string, error) {
	t.Helper()
	var urls []string
	for _, f := range forms {
		if f.refused == "" {
			urls = append(urls, f.url)
		}
	}
	input, err := json.Marshal(urls)
	if err != nil {
		return nil, err
	}
	program := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", libpqReads)
	program.Stdin = strings.NewReader(string(input))
	output, err := program.Output()
	if err != nil {
		return nil, errors.New("python3 finds no libpq")
	}
	var read map[string]map[string]string
	if err := json.Unmarshal(output, &read); err != nil {
		return nil, err
	}
	all := map[string]string{}
	for url, options := range read {
		hosts, ports, addrs := strings.Split(options["host"], ","), strings.Split(options["port"], ","), strings.Split(options["hostaddr"], ",")
		if options["host"] == "" {
			hosts = slices.Clone(addrs)
		}
		for n, host := range hosts { // as PQconnectdb does
			port := ports[0]
			if len(ports) > 1 {
				port = ports[n]
			}
			port = strings.TrimLeft(port, "0")
			if port == "" {
				port = "5432"
			}
			if hosts[n] = host + "|" + port; options["hostaddr"] != "" {
				hosts[n] += "|" + addrs[n]
			}
		}
		all[url] = fmt.Sprintf("%s %s %s %s", options["user"], options["password"], options["dbname"], strings.Join(hosts, ","))
	}
	return all, nil
}

// Whatever is accepted leads to the same place with other credentials, and keeps nothing of the old ones.
func FuzzURL(f *testing.F) {
	for _, form := range forms {
		f.Add(form.url)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_ = Redact(text)
		target, err := Postgres(text)
		if err != nil {
			return
		}
		again, err := Postgres(target.With("ü b", key.NewValue(":@/'new")).Text().Reveal())
		if err != nil || again.User != "ü b" || again.Password.Reveal() != ":@/'new" {
			t.Fatalf("%q with other credentials is not read as such: %v", text, err)
		}
		if again.Hosts.String() != target.Hosts.String() || again.Database != target.Database || again.Session != target.Session {
			t.Errorf("%q with other credentials leads elsewhere", text)
		}
		if again.Rest != target.Rest {
			t.Errorf("%q: bytes after the host have changed", text)
		}
		if without := target.Without(); without.HasCredentials() || !again.Without().Text().Equal(without.Text()) {
			t.Errorf("%q: something of the old credentials is left", text)
		}
		for _, p := range again.parameters() {
			if p.holdsCredential() || p.namesFile() {
				t.Errorf("%q is accepted with the parameter %q", text, p.name)
			}
		}
		theirs, err := askPgx(text)
		if err != nil || strings.Contains(text, "hostaddr") || strings.Contains(text, "sslrootcert") {
			return // pgx refuses what others take, such as parameters without '='
		}
		if !target.Password.Empty() && target.User != "" && strings.TrimSpace(summary(target, false)) != strings.TrimSpace(theirs) && len(target.Hosts) == 1 {
			t.Errorf("%q: pgx reads %q, we %q", text, theirs, summary(target, false))
		}
	})
}
