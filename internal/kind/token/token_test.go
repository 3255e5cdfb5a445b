// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"regexp"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

func TestFormats(t *testing.T) {
	for _, c := range []struct {
		options kind.Options
		form    string
	}{
		{kind.Options{"format": "hex", "length": "32"}, `^[0-9a-f]{64}$`},
		{kind.Options{"format": "base64", "length": "32"}, `^[A-Za-z0-9+/]{43}=$`},
		{kind.Options{"format": "base64url", "length": "32"}, `^[A-Za-z0-9_-]{43}$`},
		{kind.Options{"format": "alphanumeric", "length": "40"}, `^[A-Za-z0-9]{40}$`},
		{kind.Options{"format": "hex", "length": "16", "prefix": "sk_live_"}, `^sk_live_[0-9a-f]{32}$`},
		{kind.Options{}, `^[A-Za-z0-9_-]{43}$`},
	} {
		seen := map[string]bool{}
		for range 50 {
			v, err := Kind{}.Generate(rand.Reader, key.Key{Options: c.options}, key.Value{})
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(c.form).MatchString(v.Reveal()) {
				t.Errorf("%v gives something that is not %s", c.options, c.form)
			}
			seen[v.Reveal()] = true
		}
		if len(seen) != 50 {
			t.Errorf("%v: values repeat", c.options)
		}
	}
}

func TestDefinitionsThatCannotBe(t *testing.T) {
	for want, options := range map[string]kind.Options{
		`format "octal"`:           {"format": "octal"},
		`length "many"`:            {"length": "many"},
		`length "8"`:               {"length": "8"},
		`rule "strong"`:            {"rule": "strong"},
		`option "lenght"`:          {"lenght": "32"},
		"prefix holds":             {"prefix": "a b"},
		"prefix is":                {"prefix": strings.Repeat("x", 65)},
		"needs format=base64":      {"rule": "encryption-master-key", "format": "hex"},
		"too short for 128 bits":   {"rule": "better-auth-secret", "format": "base64", "length": "16"},
		"needs at least 32 charac": {"rule": "better-auth-secret", "format": "alphanumeric", "length": "31"},
	} {
		if _, err := (Kind{}).Normalize(options); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", options, err, want)
		}
	}
}

func TestMasterKeyRule(t *testing.T) {
	raw := make([]byte, 33)
	for i := range raw {
		raw[i] = byte(i*7 + 250)
	}
	for name, c := range map[string]struct{ value, want string }{
		"good":     {base64.StdEncoding.EncodeToString(raw[:32]), ""},
		"31 bytes": {base64.StdEncoding.EncodeToString(raw[:31]), "31 bytes"},
		"33 bytes": {base64.StdEncoding.EncodeToString(raw), "33 bytes"},
		"url-safe": {base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{0xfb, 0xff}, 16)), "url-safe"},
		"unpadded": {base64.RawStdEncoding.EncodeToString(raw[:32]), "padding"},
		"newline":  {base64.StdEncoding.EncodeToString(raw[:32]) + "\n", "padding"},
		"empty":    {"", "empty"},
	} {
		_, err := Kind{}.Check(kind.Options{"rule": "encryption-master-key"}, key.NewValue(c.value))
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && c.value != "" && strings.Contains(err.Error(), strings.TrimSpace(c.value)) {
			t.Errorf("%s: the error holds the value", name)
		}
	}
}

func TestBetterAuthRule(t *testing.T) {
	const good = "UsfdAOIJhpzYsQwm1zAklLolHHsGIouiTG1cB+4Se71Oo7/+ejj5usKWigu8XktG"
	for name, c := range map[string]struct{ value, warning, refusal string }{
		"good":       {good, "", ""},
		"short":      {good[:31], "", "31 characters"},
		"monotonous": {strings.Repeat("ab", 40), "", "Shannon"},
		"equal":      {good + "zzzz", "4 equal", ""},
		"digits":     {good + "x1234x", "1234 or abcd", ""},
		"letters":    {good + "xAbCdx", "1234 or abcd", ""},
		"word":       {good + "QwErTy", "common word", ""},
	} {
		warnings, err := Kind{}.Check(kind.Options{"rule": "better-auth-secret"}, key.NewValue(c.value))
		if (c.refusal == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.refusal) {
			t.Errorf("%s: %v", name, err)
		}
		if all := strings.Join(warnings, "; "); (c.warning == "") != (all == "") || !strings.Contains(all, c.warning) {
			t.Errorf("%s: warnings %q", name, all)
		}
	}
}

// A candidate that the platform would warn about is drawn again.
func TestCandidatesAreDrawnAgain(t *testing.T) {
	weak := bytes.Repeat([]byte{0}, 48)
	strong := make([]byte, 48)
	if _, err := rand.Read(strong); err != nil {
		t.Fatal(err)
	}
	options := kind.Options{"format": "base64", "length": "48", "rule": "better-auth-secret"}
	for range 100 { // a strong one may be complained of too
		v, err := Kind{}.Generate(rand.Reader, key.Key{Options: options}, key.Value{})
		if err != nil {
			t.Fatal(err)
		}
		if warnings, err := (Kind{}).Check(options, v); err != nil || len(warnings) > 0 {
			t.Fatalf("a value with %v was given out (%v)", warnings, err)
		}
	}
	v, err := Kind{}.Generate(bytes.NewReader(append(weak, append(strong, bytes.Repeat(strong, 63)...)...)), key.Key{Options: options}, key.Value{})
	if err == nil && strings.HasPrefix(v.Reveal(), "AAAA") {
		t.Error("the weak candidate was given out")
	}
	if _, err := (Kind{}).Generate(bytes.NewReader(bytes.Repeat(weak, 100)), key.Key{Options: options}, key.Value{}); err == nil || !strings.Contains(err.Error(), "candidates") {
		t.Errorf("a broken source of randomness: %v", err)
	}
	if _, err := (Kind{}).Generate(bytes.NewReader(nil), key.Key{Options: options}, key.Value{}); err == nil {
		t.Error("a source of randomness that ends is not noticed")
	}
}
