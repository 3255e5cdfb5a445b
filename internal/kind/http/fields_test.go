// SPDX-License-Identifier: Apache-2.0

package http_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	of "github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/http"
)

func TestDefinitionsThatCannotBe(t *testing.T) {
	for want, options := range map[string]kind.Options{
		"connection is empty":           {},
		`option "parameter"`:            {"connection": "c", "parameter": "a=b"},
		"number 1 is not NAME=VALUE":    {"connection": "c", "parameters": "secret7Qx"},
		"number 2 is not NAME=VALUE":    {"connection": "c", "parameters": "a=b,C=secret7Qx"},
		"a is there twice":              {"connection": "c", "parameters": "a=b,a=secret7Qx"},
		"a has no value":                {"connection": "c", "parameters": "a=.."},
		`id_env "lower"`:                {"connection": "c", "id_env": "lower"},
		"imported_id is not the id":     {"connection": "c", "imported_id": "secret7Qx x"},
		"others is not the id of a val": {"connection": "c", "others": "a,.."},
	} {
		_, err := of.Kind{}.Normalize(options)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret7Qx") {
			t.Errorf("%v: %v, want %q", options, err, want)
		}
	}
}

func TestConnectionsThatCannotBe(t *testing.T) {
	p := newProvider(t)
	for want, options := range map[string]kind.Options{
		"api_url is empty":                        {"api_url": ""},
		"api_url is not a URL":                    {"api_url": "host/path"},
		"of the form https://host or":             {"api_url": "https://host/?key=secret7Qx"},
		"api_url holds a user or a password":      {"api_url": "https://u:secret7Qx@host"},
		"api_url is http":                         {"api_url": "http://api.example.com"},
		"verify_url is http":                      {"verify_url": "http://api.example.com"},
		"create_path does not begin":              {"create_path": "v1/tokens"},
		"list_path does not begin with one '/'":   {"list_path": "//host/tokens"},
		"revoke_path holds '#'":                   {"revoke_path": "/tokens/../{{id}}"},
		"verify_path holds a placeholder":         {"verify_path": "/me?token={{value}}"},
		"create_path holds a placeholder":         {"create_path": "/tokens?by={{password}}"},
		"create_body holds a placeholder":         {"create_body": `{"name": "{{label}}", "by": "{{password}}"}`},
		"use {{id}}, {{key}}, {{parameter.NAME}}": {"revoke_body": `{"id": "{{value}}"}`},
		"placeholder that does not end":           {"create_body": `{"name": "{{label}}", "x": "{{key"}`},
		"is not JSON with placeholders inside":    {"create_body": `{"name": {{label}}}`},
		"neither revoke_path nor revoke_body":     {"revoke_path": "/tokens"},
		"list_label is set, and neither":          {"create_body": `{"scope": "read"}`},
		"auth_format holds neither":               {"auth_format": "Bearer secret7Qx"},
		"auth_format holds a placeholder":         {"auth_format": "Bearer {{value}}"},
		"verify_format holds a placeholder":       {"verify_format": "Bearer {{password}}"},
		"verify_format holds neither":             {"verify_format": "Bearer secret7Qx"},
		"username is empty":                       {"auth_format": "Basic {{basic}}"},
		`auth_header "X Key" is not`:              {"auth_header": "X Key"},
		`verify_header "Host" cannot carry`:       {"verify_header": "Host"},
		`create_method "PATCH" is not known`:      {"create_method": "PATCH"},
		`create_id "$.id" is not a path`:          {"create_id": "$.id"},
		`list_cursor "a&b" is not the name`:       {"list_cursor": "a&b"},
		"ca holds no certificate":                 {"ca": "-----BEGIN NOTHING-----"},
		`timeout "1h" is not a duration`:          {"timeout": "1h"},
		"allowed_hosts: number 1 is not":          {"allowed_hosts": "https://secret7Qx/"},
	} {
		c := p.connection()
		for name, value := range options {
			c.Options[name] = value
		}
		_, err := of.Kind{}.NormalizeConnection(c)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret7Qx") {
			t.Errorf("%v: %v, want %q", options, err, want)
		}
	}
	c := p.connection()
	c.Secrets[kind.FieldPassword] = key.NewValue("secret7Qx\n")
	if _, err := (of.Kind{}).NormalizeConnection(c); err == nil || strings.Contains(err.Error(), "secret7Qx") {
		t.Errorf("a password with a line break: %v", err)
	}
}

func TestValuesThatCannotBe(t *testing.T) {
	for _, text := range []string{"", "a\n", "a\x00", " a", "\xff", strings.Repeat("a", 20000)} {
		if _, err := (of.Kind{}).Check(nil, key.NewValue(text)); err == nil {
			t.Errorf("%.10q is taken", text)
		}
	}
	change := kind.Change{Key: key.Key{Options: parameters}, From: key.Version{Number: 1}, To: key.Version{Number: 2, Value: key.NewValue("brought")}}
	if err := (of.Kind{}).CheckChange(change); err == nil || !strings.Contains(err.Error(), "leave value out") {
		t.Errorf("a value that an operator brings: %v", err)
	}
}

// A journal keeps a format, but none that may hold a secret.
func TestPublicFormats(t *testing.T) {
	for text, want := range map[string]string{"Bearer S3CRET": kind.Hidden, "Bearer {{password}}": "Bearer {{password}}"} {
		if got := kind.PublicOption(of.Kind{}.ConnectionFields(), "auth_format", text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// Without a key's parameters a connection may not be tried; with them, a wrong password shows.
func TestCheckConnection(t *testing.T) {
	p := newProvider(t)
	c := p.connection()
	c.Options["list_path"] = "/users/{{parameter.user}}/tokens"
	notes, err := of.Kind{}.CheckConnection(t.Context(), c)
	if err != nil || !strings.Contains(strings.Join(notes, "; "), "was not tried") {
		t.Errorf("%q, %v", notes, err)
	}
	w := newWorld(t, p, kind.Options{"connection": "provider", "parameters": "scope=read"}, 0)
	w.change.Connection.Options["list_path"] = c.Options["list_path"]
	_, _, err = of.Kind{}.Preflight(t.Context(), w.change)
	w.fails(err, "list_path needs user", "user=VALUE")
}

// The connections of docs/http.md are ones that can be written.
func TestDocumentedConnections(t *testing.T) {
	page, err := os.ReadFile("../../../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	for _, m := range all {
		c := kind.Connection{Secrets: map[string]key.Value{kind.FieldPassword: key.NewValue(administrator)}}
		if err := json.Unmarshal([]byte(m[1]), &c.Options); err != nil {
			t.Fatal(err)
		}
		if _, err := (of.Kind{}).NormalizeConnection(c); err != nil {
			t.Errorf("%s: %v", c.Options["api_url"], err)
		}
	}
	if len(all) != 2 {
		t.Errorf("the page has %d connections", len(all))
	}
}
