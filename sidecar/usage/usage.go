// SPDX-License-Identifier: Apache-2.0

// Package usage is how the project's commands speak: a slip of the fingers is answered with what was probably meant, and logs
// are alike.
package usage

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/agext/levenshtein"
)

// Nearest gives the option that word was probably meant to be, empty if none is near.
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

// ofService ends the variables by which Kubernetes tells each container where the services of its namespace are ("Accessing
// the Service" of its documentation): one whose name begins as the prefix does must keep no command from starting.
var ofService = regexp.MustCompile(`(^|_)(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// Environment sets flags that the command line, which was parsed, has not set, from variables whose names are the prefix and
// then the flag's name in capital letters, with underscores. Of rivals, one on the command line takes the place of all.
// Names of others are known and left alone, as are those of Kubernetes; all else that has the prefix is refused. An empty
// one is not set.
func Environment(flags *flag.FlagSet, prefix string, environ, rivals []string, others ...*flag.FlagSet) error {
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if slices.ContainsFunc(rivals, func(name string) bool { return given[name] }) {
		for _, name := range rivals {
			given[name] = true
		}
	}
	names, mine := map[string]string{}, map[string]bool{} // flags by variable
	for n, set := range append(others, flags) {
		set.VisitAll(func(f *flag.Flag) {
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
				return fmt.Errorf("environment: %s is not what --%s takes: %s", name, names[name], takes(flags.Lookup(names[name]), err.Error()))
			}
		}
	}
	return nil
}

// Parse parses args. It tells whether to go on; if not, status is the exit status, and what is wrong was written to
// stderr, or the help text to stdout if it was asked for.
func Parse(flags *flag.FlagSet, args []string, help string, stdout, stderr io.Writer) (ok bool, status int) {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	err := flags.Parse(args)
	switch {
	case err == nil && flags.NArg() == 0:
		return true, 0
	case errors.Is(err, flag.ErrHelp):
		_, _ = fmt.Fprint(stdout, help)
		printFlags(flags, stdout)
		return false, 0
	case err == nil:
		_, _ = fmt.Fprintf(stderr, "%s: %q is not wanted: everything is set by flags and the environment\n", flags.Name(), flags.Arg(0))
	default:
		_, _ = fmt.Fprintf(stderr, "%s: %s\n", flags.Name(), wording(flags, err.Error()))
	}
	_, _ = fmt.Fprintf(stderr, "Run \"%s --help\" for its flags.\n", flags.Name())
	return false, 2
}

// What the flag package says of flags, as it says it.
var (
	unknownFlag = regexp.MustCompile(`^flag provided but not defined: -(.*)$`)
	noValue     = regexp.MustCompile(`^flag needs an argument: -(.*)$`)
	badValue    = regexp.MustCompile(`(?s)^invalid (?:boolean )?value (".*") for (?:flag )?-([^ :]+): (.*)$`)
)

// wording says the same with the flag as people write it, and what to write instead.
func wording(flags *flag.FlagSet, message string) string {
	if m := unknownFlag.FindStringSubmatch(message); m != nil {
		return fmt.Sprintf("flag --%s is not known%s", m[1], didYouMeanFlag(flags, m[1]))
	}
	if m := noValue.FindStringSubmatch(message); m != nil && flags.Lookup(m[1]) != nil {
		kind, _ := flag.UnquoteUsage(flags.Lookup(m[1]))
		return fmt.Sprintf("flag --%s has no value; write --%s=%s", m[1], m[1], kind)
	}
	if m := badValue.FindStringSubmatch(message); m != nil && flags.Lookup(m[2]) != nil {
		return fmt.Sprintf("--%s: %s is not what it takes: %s", m[2], m[1], takes(flags.Lookup(m[2]), m[3]))
	}
	return message
}

// takes says what a flag takes; of one that checks its values itself, what it has said.
func takes(f *flag.Flag, said string) string {
	getter, ok := f.Value.(flag.Getter)
	if !ok {
		return said
	}
	switch getter.Get().(type) {
	case bool:
		return "true or false"
	case int:
		return "a whole number, such as 10"
	case time.Duration:
		return "a duration, such as 200ms or 30s"
	}
	return said
}

func didYouMeanFlag(flags *flag.FlagSet, name string) string {
	var names []string
	flags.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	if nearest := Nearest(strings.TrimLeft(name, "-"), names); nearest != "" {
		return "; did you mean --" + nearest + "?"
	}
	return ""
}

func printFlags(flags *flag.FlagSet, w io.Writer) {
	title := "\nFlags:\n"
	flags.VisitAll(func(f *flag.Flag) {
		_, _ = fmt.Fprint(w, title)
		title = ""
		kind, text := flag.UnquoteUsage(f)
		name := "--" + f.Name
		if kind != "" {
			name += "=" + kind
		}
		if f.DefValue != "" && f.DefValue != "false" {
			text += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		_, _ = fmt.Fprintf(w, "  %-28s %s\n", name, text)
	})
}
