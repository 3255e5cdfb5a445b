// SPDX-License-Identifier: Apache-2.0

// Package usage is how the project's commands speak: a slip of the fingers is answered with what was probably meant, and logs
// are alike.
package usage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/nearest"
)

// New returns a command. path is how it is called, as "hyvve-sidecar agent"; short is its line in the help text of the command
// above it, and help its own help text, without the flags. It takes no arguments besides flags unless Args is set.
func New(path, short, help string, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:           path[strings.LastIndexByte(path, ' ')+1:],
		Short:         short,
		Long:          help,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: path}, // where it stands alone
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArguments,
		RunE:          run,
	}
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) { printHelp(cmd, cmd.OutOrStdout()) })
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return Wrong(errors.New(wording(cmd.Flags(), err))) })
	return cmd
}

// NewRoot returns a command that has others below it, and does nothing itself.
func NewRoot(name, version, help string, commands ...*cobra.Command) *cobra.Command {
	root := WithVersion(New(name, "", help, func(cmd *cobra.Command, _ []string) error {
		printHelp(cmd, cmd.ErrOrStderr())
		return Exit{Status: statusOfWrong(cmd)}
	}), version)
	root.Args = nil // cobra looks for the command
	root.AddCommand(commands...)
	root.SetHelpCommand(newHelp(root))
	show := New(name+" version", "print the version", "Usage: "+name+" version\n", func(cmd *cobra.Command, _ []string) error {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), name, version)
		return err
	})
	root.AddCommand(show)
	return root
}

// refineCompletion has cobra's command for completion refuse what is no shell. By itself it prints its help text, and succeeds.
func refineCompletion(root *cobra.Command, args []string) {
	root.InitDefaultCompletionCmd(args...) // where root has no other command, only if args ask for it
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		cmd.Short = "print the script that lets a shell complete command lines"
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			shells := strings.Join(below(cmd), ", ")
			if len(args) > 0 {
				return Wrong(fmt.Errorf("shell %q is not known%s (it is one of %s)", args[0], DidYouMean(args[0], below(cmd)), shells))
			}
			return Wrong(fmt.Errorf("the shell is missing; name one of %s", shells))
		}
	}
}

func newHelp(root *cobra.Command) *cobra.Command {
	help := New(root.Name()+" help", "print the help text of a command", "Usage: "+root.Name()+" help [COMMAND]\n", func(cmd *cobra.Command, args []string) error {
		found, rest, err := root.Find(args)
		if err != nil || len(rest) > 0 {
			return Exit{Status: statusOfWrong(root), Err: fmt.Errorf("command %q is not known%s", strings.Join(args, " "), DidYouMean(args[0], below(root)))}
		}
		return found.Help()
	})
	help.Args = cobra.ArbitraryArgs
	return help
}

// WithVersion adds the flag --version to a command, and the word version in its place.
func WithVersion(cmd *cobra.Command, version string) *cobra.Command {
	asked := cmd.Flags().Bool("version", false, "print the version")
	run, check := cmd.RunE, cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 && args[0] == "version" {
			*asked = true
			return nil
		}
		return check(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *asked {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), cmd.Name(), version)
			return err
		}
		return run(cmd, args)
	}
	return cmd
}

// Exit is an error with the exit status of the process.
type Exit struct {
	Status int
	Err    error // nil: nothing is left to say
	wrong  bool  // the command line is: it points at the help text
}

// Error implements error.
func (e Exit) Error() string { return fmt.Sprint(e.Err) }

// Unwrap returns what is wrong.
func (e Exit) Unwrap() error { return e.Err }

// statusWrong is the exit status of a command line that is wrong.
const statusWrong = 2

// wrongStatus is the annotation of a root command with another one.
const wrongStatus = "wrong status"

// WithWrongStatus sets the exit status of command lines that are wrong, where 2 means something else.
func WithWrongStatus(root *cobra.Command, status int) *cobra.Command {
	root.Annotations[wrongStatus] = strconv.Itoa(status)
	return root
}

// statusOfWrong returns the exit status of a command line that is wrong.
func statusOfWrong(root *cobra.Command) int {
	if status, err := strconv.Atoi(root.Annotations[wrongStatus]); err == nil {
		return status
	}
	return statusWrong
}

// Wrong returns the error of a command line that is wrong: its exit status is 2, and it points to the help text.
func Wrong(err error) error { return Exit{statusWrong, err, true} }

// Run runs a command and returns the exit status: 1 for an error that is no [Exit]. It writes errors to stderr.
func Run(ctx context.Context, root *cobra.Command, args []string, stdout, stderr io.Writer) int {
	refineCompletion(root, args)
	root.SetArgs(twoDashes(root, args))
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if _, _, fault := root.Find(args); fault != nil {
		return unknownCommand(root, args, stderr)
	}
	exit := Exit{Status: 1, Err: err}
	_ = errors.As(err, &exit) // else it keeps the status
	if exit.Err != nil {
		_, _ = fmt.Fprintf(stderr, "%s: %v\n", cmd.CommandPath(), err)
	}
	if exit.wrong {
		_, _ = fmt.Fprintf(stderr, "Run \"%s --help\" for its flags.\n", cmd.CommandPath())
		exit.Status = statusOfWrong(root)
	}
	return exit.Status
}

// unknownCommand says which word is no command. A word behind a flag that root does not have may be the flag's value,
// and a secret: it names the flag instead.
func unknownCommand(root *cobra.Command, args []string, stderr io.Writer) int {
	root.InitDefaultHelpFlag()
	for _, arg := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if name != "" && !strings.HasPrefix(arg, "-") {
			_, _ = fmt.Fprintf(stderr, "%s: command %q is not known%s\n\n", root.CommandPath(), arg, DidYouMean(arg, below(root)))
			break
		}
		if name != "" && root.Flags().Lookup(name) == nil {
			_, _ = fmt.Fprintf(stderr, "%s: flag --%s stands before the command; write %s COMMAND --%s\n\n", root.CommandPath(), name, root.CommandPath(), name)
			break
		}
	}
	printHelp(root, stderr)
	return statusOfWrong(root)
}

// below returns the names of a command's subcommands.
func below(cmd *cobra.Command) (names []string) {
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// twoDashes lets flags be written with one dash, as those of Go's flag package are.
func twoDashes(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil {
		return args
	}
	cmd.InitDefaultHelpFlag()
	args = slices.Clone(args)
	for n, arg := range args {
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		switch {
		case arg == "--":
			return args
		case len(name) > 1 && arg[0] == '-' && cmd.Flags().Lookup(name) != nil:
			args[n] = "-" + arg
		}
	}
	return args
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := DidYouMean(args[0], below(cmd)); near != "" {
		return Wrong(fmt.Errorf("%q is not known%s", args[0], near))
	}
	return Wrong(fmt.Errorf("%q is not wanted: everything is set by flags and the environment", args[0]))
}

// wording says what is wrong with a flag, and what to write instead.
func wording(flags *pflag.FlagSet, err error) string {
	var unknown *pflag.NotExistError
	var noValue *pflag.ValueRequiredError
	var bad *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		if short := unknown.GetSpecifiedShortnames(); short != "" { // one dash, and the whole of the word
			name, _, _ = strings.Cut(short, "=")
		}
		var names []string
		flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if meant := nearest.To(name, names); meant != "" {
			return fmt.Sprintf("flag --%s is not known; did you mean --%s?", name, meant)
		}
		return fmt.Sprintf("flag --%s is not known", name)
	case errors.As(err, &noValue):
		kind, _ := pflag.UnquoteUsage(noValue.GetFlag())
		return fmt.Sprintf("flag --%s has no value; write --%s=%s", noValue.GetFlag().Name, noValue.GetFlag().Name, kind)
	case errors.As(err, &bad):
		return fmt.Sprintf("--%s: %q is not what it takes: %s", bad.GetFlag().Name, bad.GetValue(), takes(bad))
	}
	return err.Error()
}

// takes says what a flag takes; of one that checks its values itself, what it has said.
func takes(bad *pflag.InvalidValueError) string {
	switch bad.GetFlag().Value.Type() {
	case "bool":
		return "true or false"
	case "int":
		return "a whole number, such as 10"
	case "duration":
		return "a duration, such as 200ms or 30s"
	}
	return bad.Unwrap().Error()
}

func printHelp(cmd *cobra.Command, w io.Writer) {
	_, _ = fmt.Fprint(w, strings.TrimSuffix(cmd.Long, "\n")+"\n")
	title := "\nCommands:\n"
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			_, _ = fmt.Fprintf(w, "%s  %-11s %s\n", title, c.Name(), c.Short)
			title = ""
		}
	}
	title = "\nFlags:\n"
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name == helpFlag {
			return
		}
		kind, text := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if kind != "" {
			name += "=" + kind
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			text += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		_, _ = fmt.Fprintf(w, "%s  %-28s %s\n", title, name, text)
		title = ""
	})
}

// helpFlag is cobra's own.
const helpFlag = "help"

func init() { cobra.EnableCommandSorting = false } // those that are used most stand first

// DidYouMean is the end of a sentence, empty if nothing is near.
func DidYouMean(word string, options []string) string {
	if meant := nearest.To(word, options); meant != "" {
		return fmt.Sprintf("; did you mean %q?", meant)
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

// meantVariable is DidYouMean of variables with a prefix, which is no part of what may be misspelt.
func meantVariable(name, prefix string, names []string) string {
	options := make([]string, 0, len(names))
	for _, option := range names {
		options = append(options, strings.TrimPrefix(option, prefix))
	}
	if meant := nearest.To(strings.TrimPrefix(name, prefix), options); meant != "" {
		return fmt.Sprintf("; did you mean %q?", prefix+meant)
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
			return fmt.Errorf("environment: %s is not known%s", name, meantVariable(name, prefix, slices.Sorted(maps.Keys(names))))
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

// Logger writes lines of JSON, in which durations have their units, as "1.5s", and are not numbers of nanoseconds.
func Logger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}}))
}
