// SPDX-License-Identifier: Apache-2.0

// Package usage is how the project's commands speak: a slip of the fingers is answered with what was probably meant, and logs
// are alike.
package usage

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/spf13/pflag"
)

// Nearest returns the option that word was probably meant to be, empty if none is near.
func Nearest(word string, options []string) string {
	best, distance := "", max(2, len(word)/3)+1
	for _, option := range options {
		if d := levenshtein.Distance(word, option, nil); d < distance {
			best, distance = option, d
		}
	}
	return best
}

// DidYouMean is the end of a sentence, empty if nothing is near.
func DidYouMean(word string, options []string) string {
	if nearest := Nearest(word, options); nearest != "" {
		return fmt.Sprintf("; did you mean %q?", nearest)
	}
	return ""
}

// OneOf refuses a word that is none of the options.
func OneOf(word string, options []string) error {
	if slices.Contains(options, word) {
		return nil
	}
	return fmt.Errorf("%q is not one of %s%s", word, strings.Join(options, ", "), DidYouMean(word, options))
}

// ofService ends the variables by which Kubernetes tells each container where the services of its namespace are ("Accessing
// the Service" of its documentation): one whose name begins as the prefix does must keep no command from starting.
var ofService = regexp.MustCompile(`(^|_)(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// Environment sets flags that the command line, which was parsed, has not set, from variables whose names are the prefix and
// then the flag's name in capital letters, with underscores. Of rivals, one on the command line takes the place of all.
// Names of others are known and left alone, as are those of Kubernetes; all else that has the prefix is refused. An empty
// one is not set.
func Environment(flags *pflag.FlagSet, prefix string, environ, rivals []string, others ...*pflag.FlagSet) error {
	given := map[string]bool{}
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	if slices.ContainsFunc(rivals, func(name string) bool { return given[name] }) {
		for _, name := range rivals {
			given[name] = true
		}
	}
	names, mine := map[string]string{}, map[string]bool{} // flags by variable
	for n, set := range append(others, flags) {
		set.VisitAll(func(f *pflag.Flag) {
			if f.Name == helpFlag {
				return
			}
			name := prefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
			names[name], mine[name] = f.Name, n == len(others)
		})
	}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		switch {
		case !strings.HasPrefix(name, prefix) || value == "":
		case names[name] == "" && ofService.MatchString(strings.TrimPrefix(name, prefix)):
		case names[name] == "":
			return fmt.Errorf("environment: %s is not known%s", name, DidYouMean(name, slices.Sorted(maps.Keys(names))))
		case mine[name] && !given[names[name]]:
			if err := flags.Set(names[name], value); err != nil {
				var bad *pflag.InvalidValueError
				_ = errors.As(err, &bad) // the flag is known
				return fmt.Errorf("environment: %s is not what --%s takes: %s", name, names[name], takes(bad))
			}
		}
	}
	return nil
}
