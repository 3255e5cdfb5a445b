// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
)

// actors are the parameters of the server that say whom a session acts as.
var actors = []string{"role", "session_authorization"}

// checkActor returns an error where a URL says whom its sessions act as. That wins over the setting of a login role, so that
// sessions would not act as the owner.
func checkActor(u dsn.Target) error {
	names := append(set(u.Session.Options), queryNames(u)...)
	for _, name := range names {
		if slices.Contains(actors, name) {
			return fmt.Errorf("the URL sets the parameter %s for its sessions, which would then not act as the key's owner; leave it out, and name the role in owner= where it is another one than the URL's user", name)
		}
	}
	return nil
}

// queryNames are the parameters of the query, some of which drivers pass to the server as they are.
func queryNames(u dsn.Target) (names []string) {
	for name := range u.Query() {
		names = append(names, parameterName(name))
	}
	slices.Sort(names)
	return names
}

// parameterName is the name of a parameter as the server knows it, regardless of case.
func parameterName(name string) string { return strings.ToLower(strings.ReplaceAll(name, "-", "_")) }

// withValue are the server's one-letter switches that take a value (its getopt string, in process_postgres_switches).
const withValue = "BCDdfhkNprStvWc"

// set returns the parameters that options of a session set: -c name=value, -cname=value or --name=value, also behind
// switches without a value, as -Fc name=value.
func set(options string) (names []string) {
	args := splitOptions(options)
	add := func(text string) {
		name, _, _ := strings.Cut(text, "=")
		names = append(names, parameterName(name))
	}
	for n := 0; n < len(args); n++ {
		letters, isSwitch := strings.CutPrefix(args[n], "-")
		if !isSwitch {
			continue
		}
		for at, letter := range letters {
			rest := letters[at+1:]
			if letter != '-' && !strings.ContainsRune(withValue, letter) {
				continue
			}
			if rest == "" && n+1 < len(args) {
				n++
				rest = args[n]
			}
			if letter == '-' || letter == 'c' {
				add(rest)
			}
			break
		}
	}
	return names
}

// splitOptions splits as the server does (pg_split_opts): at white space; a backslash takes the next character as it is.
func splitOptions(options string) (args []string) {
	var arg strings.Builder
	begun, escaped := false, false
	for _, c := range options {
		switch {
		case escaped:
			arg.WriteRune(c)
			escaped = false
		case c == '\\':
			begun, escaped = true, true
		case strings.ContainsRune(" \t\n\v\f\r", c):
			if begun {
				args = append(args, arg.String())
			}
			arg.Reset()
			begun = false
		default:
			arg.WriteRune(c)
			begun = true
		}
	}
	if begun {
		args = append(args, arg.String())
	}
	return args
}
