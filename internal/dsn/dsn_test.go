// SPDX-License-Identifier: Apache-2.0

package dsn

import (
	"net/url"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

var schemes = []string{"postgresql", "postgres", "redis", "rediss"}

func TestBytesSurvive(t *testing.T) {
	const rest = "db.example:6543/my%20db?pgbouncer=true&schema=Caf%C3%A9&connection_limit=5&&pool_timeout=+20&sslmode=require&x=%2f#frag"
	for _, info := range []string{"app:pass@", "app@", ":pass@", "@", "", "a%40b:p%2Fw%3A%25@", "p@q:r@s@"} {
		text := "postgresql://" + info + rest
		u, err := Parse(text, schemes...)
		if err != nil {
			t.Fatalf("%s: %v", info, err)
		}
		if u.Text().Reveal() != text {
			t.Errorf("%q is written again as %q", text, u.Text().Reveal())
		}
		with := u.With("hyvve_a", key.NewValue("x"))
		if want := "postgresql://hyvve_a:x@" + rest; with.Text().Reveal() != want {
			t.Errorf("with other credentials: %q, want %q", with.Text().Reveal(), want)
		}
		if want := "postgresql://" + rest; u.Without().Text().Reveal() != want {
			t.Errorf("without credentials: %q", u.Without().Text().Reveal())
		}
		if strings.Contains(u.String(), "pass") {
			t.Errorf("%q holds the password", u.String())
		}
	}
}

func TestParts(t *testing.T) {
	u, err := Parse("rediss://default:p%40%3A%2F%25@h1:1,h2:2/7?a=b&c", schemes...)
	if err != nil {
		t.Fatal(err)
	}
	if u.User != "default" || u.Password.Reveal() != "p@:/%" || u.Host() != "h1:1,h2:2" || u.Path() != "7" || u.Query().Get("a") != "b" || !u.HasCredentials() {
		t.Errorf("%s, %s, %q, %q, %v", u, u.User, u.Host(), u.Path(), u.Query())
	}
}

// A password of any characters is read by others as it was meant.
func TestEveryByteIsEncoded(t *testing.T) {
	all := make([]byte, 0, 255)
	for c := 1; c < 128; c++ {
		all = append(all, byte(c))
	}
	secret := string(all) + "äß漢😀"
	u, err := Parse("redis://h:1/0", schemes...)
	if err != nil {
		t.Fatal(err)
	}
	text := u.With("ü ser", key.NewValue(secret)).Text().Reveal()
	standard, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if password, _ := standard.User.Password(); password != secret || standard.User.Username() != "ü ser" {
		t.Error("net/url reads something else")
	}
	ours, err := Parse(text, schemes...)
	if err != nil || ours.Password.Reveal() != secret || ours.User != "ü ser" {
		t.Errorf("we read something else: %v", err)
	}
}

func TestBadURLs(t *testing.T) {
	for text, want := range map[string]string{
		"mysql://canary:canary@h/d":     "of the form",
		"canary":                        "of the form",
		"postgresql://u:canary%zz@h/d":  "percent-encoded",
		"postgresql://u:can/ary@h/d":    "%2F",
		"postgresql://u:canary @h/d":    "white space",
		"postgresql://u:canary@/d":      "no host",
		"postgresql://u:canary\xff@h/d": "UTF-8",
	} {
		_, err := Parse(strings.ReplaceAll(text, "\\xff", "\xff"), schemes...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// Whatever is accepted is written again byte for byte.
func FuzzParse(f *testing.F) {
	f.Add("postgresql://u:p@h:1/d?x=y")
	f.Add("rediss://:p%40@h")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := Parse(text, schemes...)
		if err != nil {
			return
		}
		if u.Text().Reveal() != text {
			t.Errorf("%q became %q", text, u.Text().Reveal())
		}
		back, err := Parse(u.With("a b", key.NewValue(":@/")).Text().Reveal(), schemes...)
		if err != nil || back.User != "a b" || back.Password.Reveal() != ":@/" || back.Rest != u.Rest {
			t.Errorf("%q with other credentials is read differently: %v", text, err)
		}
	})
}

func TestTemplates(t *testing.T) {
	fine := func(string) error { return nil }
	all, err := ParseTemplates("B_URL=redis://b:1/0\n  A_URL=redis://a:2/1?x=y", "X=redis://x", fine)
	if err != nil || strings.Join(all.Names(), " ") != "A_URL B_URL" {
		t.Fatalf("%v, %v", all, err)
	}
	u, err := Parse("redis://u%40:p%3A@h:1/0", schemes...)
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := all.Render(u, schemes...)
	if err != nil || rendered["A_URL"].Reveal() != "redis://u%40:p%3A@a:2/1?x=y" {
		t.Errorf("%v, %v", rendered["A_URL"].Reveal(), err)
	}
	for text, want := range map[string]string{"A_URL": "one is not NAME=URL", "a=redis://h": "as X=redis://x", "A=redis://h A=redis://h": "A is named twice"} {
		if _, err := ParseTemplates(text, "X=redis://x", fine); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestCredentialsInTheQuery(t *testing.T) {
	for parameters, name := range map[string]string{
		"password=canary": "password", "x=y&pass%77ord=canary": "password", "PassWord=canary": "password", "password": "password",
		"user=canary": "user", "%20user+=canary": "user", "username=canary": "username", "sslpassword=canary": "sslpassword",
		"passfile=canary": "passfile", "service=canary": "service", "servicefile=canary": "servicefile",
		"scram_client_key=canary": "scram_client_key", "oauth_client_secret=canary": "oauth_client_secret",
		"sentinelPassword=canary": "sentinelpassword", "auth_token=canary": "auth_token", "pwd=canary": "pwd",
	} {
		for _, scheme := range schemes {
			text := scheme + "://u:p@h:1/d?" + parameters
			_, err := Parse(text, schemes...)
			if err == nil || !strings.Contains(err.Error(), `"`+name+`"`) || strings.Contains(err.Error(), "canary") {
				t.Errorf("%s: %v, want %q", text, err, name)
			}
			if plain := Redact(text); strings.Contains(plain, "canary") || strings.Contains(plain, ":p@") || !strings.HasPrefix(plain, scheme+"://u@h:1/d?") {
				t.Errorf("%s is shown as %s", text, plain)
			}
		}
	}
	for _, text := range []string{"postgresql://u@h/d?sslmode=x&require_auth=y&passes=1&users=2", "redis://h", "text", "redis://u@h/0#password"} {
		if _, err := Parse(text, schemes...); err != nil && text != "text" {
			t.Errorf("%s: %v", text, err)
		}
		if Redact(text) != text {
			t.Errorf("%s is shown as %s", text, Redact(text))
		}
	}
}

// A PostgreSQL URL may repeat its own user and password, as JDBC's clients need: both places change.
func TestRepeatedCredentials(t *testing.T) {
	for text, want := range map[string]string{
		"postgresql://u:p%40@h/d?user=u&password=p%40":        "postgresql://v:q%3A@h/d?user=v&password=q%3A",
		"postgres://u:p%40@h/d?x=%41&password=%70@&&y#f":      "postgres://v:q%3A@h/d?x=%41&password=q%3A&&y#f",
		"postgresql://u:p%40@/d?host=/s&user=%75&user=u&port": "postgresql://v:q%3A@/d?host=/s&user=v&user=v&port",
	} {
		u, err := Parse(text, schemes...)
		if err != nil || !u.Repeats() {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := u.With("v", key.NewValue("q:")).Text().Reveal(); got != want {
			t.Errorf("%s became %s, want %s", text, got, want)
		}
		if shown := u.String(); strings.Contains(shown, "p%40") || strings.Contains(shown, "p@") || strings.Contains(shown, "%70") {
			t.Errorf("%s is shown as %s", text, shown)
		}
	}
	for _, text := range []string{
		"postgresql://u:p+@h/d?password=p+", "postgresql://u:p@h/d?user=v&password=p", "postgresql://u:p@h/d?user=u&password=q",
		"postgresql://u:p@h/d?User=u", "postgresql://u:p@h/d?username=u", "postgresql://u:p@h/d?pass%77ord=p", "postgresql://u@h/d?password=",
		"postgresql://h/d?user=u&password=p", "redis://u:p@h/0?password=p", "postgresql://u:p@h/d?sslpassword=p",
	} {
		if u, err := Parse(text, schemes...); err == nil {
			t.Errorf("%s is accepted, and repeats: %t", text, u.Repeats())
		}
	}
	if target, err := Postgres("postgresql://u:p@h/d?user=u"); err != nil || len(target.Notes()) != 1 {
		t.Errorf("%v, %v, want a note", target.Notes(), err)
	}
}

// What an earlier release has accepted is read as its clients do, so that the credential in use is the one that is locked.
func TestStored(t *testing.T) {
	for text, want := range map[string]string{
		"postgresql://a:b@h/d?user=c%40&password=d": "c@ d",
		"postgresql://a:b@h/d":                      "a b",
		"redis://a:b@h/0?username=c&password=d":     "a b",
		"redis://h/0?username=c&password=d":         "c d",
	} {
		if u, err := Stored(text, schemes...); err != nil || u.User+" "+u.Password.Reveal() != want {
			t.Errorf("%s: %s %s, %v, want %s", text, u.User, u.Password.Reveal(), err, want)
		}
	}
}

func TestRedis(t *testing.T) {
	for text, want := range map[string]string{
		"redis://u:canary@h:1/0?host=x":    `"host"`,
		"redis://u:canary@h/0?Port=1":      `"port"`,
		"redis://u:canary@h/1?db=2":        "several databases",
		"redis://u:canary@h?db=2&db=3":     "several databases",
		"redis://u:canary@h/0?db=0":        "",
		"rediss://u:canary@h/3?protocol=3": "",
		"redis://u:canary@h?username=x":    `"username"`,
	} {
		_, err := Redis(text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary")) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
