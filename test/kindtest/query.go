// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"maps"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// queryCredentials are parameters with which a URL's query logs in as somebody else than it says before the host, and the
// names under which an error should call them.
var queryCredentials = []struct{ parameters, name string }{
	{"password=", "password"},
	{"pass%77ord=", "password"},
	{"x=y&user=", "user"},
	{"UserName=", "username"},
	{"sslPassword=", "sslpassword"},
	{"passfile=/tmp/", "passfile"},
	{"service=", "service"},
}

// withQuery is a URL with parameters more; ok is false for what is no URL.
func withQuery(text, parameters string) (url string, ok bool) {
	mark := "?"
	if strings.Contains(text, "?") {
		mark = "&"
	}
	return text + mark + parameters + canary, strings.Contains(text, "://")
}

// refusesQuery fails unless a URL with credentials in its query is refused by the parameter's name.
func (s *suite) refusesQuery(what, text string, try func(url string) error) {
	s.Helper()
	s.canaries(canary)
	for _, of := range queryCredentials {
		url, ok := withQuery(text, of.parameters)
		if !ok {
			return
		}
		err := try(url)
		s.secrets.absent(s, "the error for a credential in the query of "+what, err)
		if err == nil || !strings.Contains(err.Error(), of.name) {
			s.Errorf("%s with %s in its query is not refused by the name %s: %v", what, of.parameters, of.name, err)
		}
	}
}

// queryOfConnection is for the field from which a password is moved among the secrets.
func queryOfConnection(s *suite) {
	c := s.Connection
	s.refusesQuery("a connection's "+fieldURL, c.Options[fieldURL], func(url string) error {
		with := c
		with.Options = maps.Clone(c.Options)
		with.Options[fieldURL] = url
		_, err := s.connector().NormalizeConnection(with)
		return err
	})
}

// queryOfValue is for values that are URLs.
func queryOfValue(s *suite) {
	current, ok := s.key.Current()
	if !ok {
		return
	}
	s.refusesQuery("a value", current.Value.Reveal(), func(url string) error {
		_, err := s.Kind.Check(s.key.Options, key.NewValue(url))
		return err
	})
}
