// SPDX-License-Identifier: Apache-2.0

package external

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

func TestDefinitionsThatCannotBe(t *testing.T) {
	for want, options := range map[string]kind.Options{
		`option "verfy_url"`:               {"verfy_url": "https://host"},
		"pattern: error parsing":           {"pattern": "a("},
		"missing argument to repetition":   {"pattern": "*"},
		"unexpected )":                     {"pattern": "a)|(b"},
		"verify_url is not a URL":          {"verify_url": "host/path"},
		"of the form https://":             {"verify_url": "ftp://host/path"},
		"form https://host/path":           {"verify_url": "https://"},
		"is not a URL of the form":         {"verify_url": "https://host:port:x/%zz"},
		"is not a URL of":                  {"verify_url": "https://:443/"},
		"holds a user or a password":       {"verify_url": "https://user:secret7Qx@host/"},
		"holds a '#'":                      {"verify_url": "https://host/#top"},
		"in a header only":                 {"verify_url": "https://host/?key={{value}}"},
		`verify_header "X Key" is not`:     {"verify_header": "X Key"},
		`verify_header "Ä" is not`:         {"verify_header": "Ä"},
		`verify_header "host" cannot`:      {"verify_header": "host"},
		`"transfer-encoding" cannot`:       {"verify_header": "transfer-encoding"},
		`verify_format does not hold`:      {"verify_format": "Bearer"},
		"exactly once":                     {"verify_format": "{{value}}{{value}}"},
		"holds a line break":               {"verify_format": "a\nb {{value}}"},
		`verify_method "PUT" is not known`: {"verify_method": "PUT"},
		"verify_ca holds no certificate":   {"verify_url": "https://host", "verify_ca": "-----BEGIN NOTHING-----"},
		"set both or neither":              {"verify_url": "http://host", "verify_ca": "-----BEGIN CERTIFICATE-----"},
		"verify_ca is set and verify_url":  {"verify_ca": "-----BEGIN CERTIFICATE-----"},
		`multiline "yes" is neither`:       {"multiline": "yes"},
		"multiline is true and verify":     {"multiline": "true", "verify_url": "https://host"},
		`verify_timeout "soon"`:            {"verify_timeout": "soon"},
		`verify_timeout "2m"`:              {"verify_timeout": "2m"},
		`verify_timeout "1ms"`:             {"verify_timeout": "1ms"},
	} {
		_, err := Kind{}.Normalize(options)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", options, err, want)
		} else if strings.Contains(err.Error(), "secret7Qx") {
			t.Errorf("%v: the error holds a password: %v", options, err)
		}
	}
}

func TestDefaults(t *testing.T) {
	full, err := Kind{}.Normalize(kind.Options{"verify_method": "head"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"pattern": "", "verify_url": "", "verify_header": "Authorization", "verify_format": "Bearer {{value}}",
		"verify_method": "HEAD", "verify_ca": "", "verify_timeout": "10s", "multiline": "false",
	} {
		if full[name] != want {
			t.Errorf("%s is %q, want %q", name, full[name], want)
		}
	}
}

func TestCheck(t *testing.T) {
	const there = "http://127.0.0.1:1/"
	for name, c := range map[string]struct {
		options                 kind.Options
		value, warning, refusal string
	}{
		"anything":                     {nil, "any thing ä", "", ""},
		"empty":                        {nil, "", "", "value is empty"},
		"newline":                      {nil, "secret7Qx\n", "", "trailing newline"},
		"newline, with lines":          {kind.Options{"multiline": "true"}, "secret7Qx\n", "", "trailing newline"},
		"lines":                        {nil, "secret7Qx\nb\n", "", "multiline=true"},
		"lines, with lines":            {kind.Options{"multiline": "true"}, "secret7Qx\nb\n", "", ""},
		"no end, with lines":           {kind.Options{"multiline": "true"}, "secret7Qx\nb", "", ""},
		"space at the end, with lines": {kind.Options{"multiline": "true"}, "secret7Qx\nb \n", "white space", ""},
		"DOS, with lines":              {kind.Options{"multiline": "true"}, "secret7Qx\r\nb\r\n", "", "tr -d '\\r'"},
		"NUL, with lines":              {kind.Options{"multiline": "true"}, "secret7Qx\n\x00", "", "NUL"},
		"match of lines":               {kind.Options{"multiline": "true", "pattern": "(?s)secret.*\n"}, "secret7Qx\nb\n", "", ""},
		"carriage return":              {nil, "secret\r7Qx", "", "line break"},
		"NUL":                          {nil, "secret7Qx\x00", "", "NUL"},
		"not UTF-8":                    {nil, "secret7Qx\xff", "", "UTF-8"},
		"white space":                  {nil, " secret7Qx", "white space", ""},
		"match":                        {kind.Options{"pattern": "sk_[a-z]+"}, "sk_abc", "", ""},
		"match of a part":              {kind.Options{"pattern": "sk_[a-z]+"}, "xsk_abcx", "", "does not match"},
		"match of one line":            {kind.Options{"pattern": "(?m)^sk_[a-z]+$"}, "sk_abc", "", ""},
		"match of one alternative":     {kind.Options{"pattern": "a|secret7Qx"}, "secret7Qxa", "", "does not match"},
		"longest alternative":          {kind.Options{"pattern": "a|ab"}, "ab", "", ""},
		"flags":                        {kind.Options{"pattern": "(?i)sk_[a-z]+"}, "SK_ABC", "", ""},
		"control character":            {nil, "secret\x017Qx", "", ""},
		"control character in a probe": {kind.Options{"verify_url": there}, "secret\x017Qx", "", "no header carries"},
		"probe at home":                {kind.Options{"verify_url": there}, "secret7Qx", "", ""},
		"probe in the clear":           {kind.Options{"verify_url": "http://host.example/"}, "secret7Qx", "in the clear", ""},
		"probe over TLS":               {kind.Options{"verify_url": "https://host.example/"}, "secret7Qx", "", ""},
	} {
		options, err := Kind{}.Normalize(c.options)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		warnings, err := Kind{}.Check(options, key.NewValue(c.value))
		if (c.refusal == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.refusal) {
			t.Errorf("%s: %v, want %q", name, err, c.refusal)
		}
		if all := strings.Join(warnings, "; "); (c.warning == "") != (all == "") || !strings.Contains(all, c.warning) {
			t.Errorf("%s: warnings %q, want %q", name, all, c.warning)
		}
	}
}

// A journal keeps a format, but none that may hold the value.
func TestPublicFormat(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"Bearer S3CRET": kind.Hidden, "Bearer {{value}}": "Bearer {{value}}"} {
		if got := kind.PublicOption(Kind{}.Fields(), optionFormat, text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}
