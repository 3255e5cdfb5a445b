// SPDX-License-Identifier: Apache-2.0

// Package command has the commands of hyvve. Each reads facts from the engine by its paths, and lays them out for people or, with
// -o json, prints them as they are.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/operator/screen"
)

// The exit statuses of hyvve.
const (
	StatusError       = 1
	StatusPaused      = 3
	StatusReverted    = 4
	StatusTimeout     = 5   // the rotation continues
	StatusCuts        = 6   // the rotation is done, and something was cut
	StatusInterrupted = 130 // by Ctrl-C; the rotation continues
)

const help = `Usage: hyvve COMMAND [flags]

Shows the keys and rotations of a mount of the engine, and does what you decide.
"hyvve COMMAND --help" has the flags of each command.

Environment, as of the vault command:
  VAULT_ADDR        address of Vault; of a cluster, those of its nodes with commas between them
  VAULT_TOKEN       token; without it, the one that "vault login" has stored
  VAULT_NAMESPACE   namespace
  VAULT_CACERT, VAULT_CAPATH, VAULT_CLIENT_CERT, VAULT_CLIENT_KEY, VAULT_TLS_SERVER_NAME, VAULT_SKIP_VERIFY
And of its own:
  HYVVE_MOUNT       path of the engine, in place of --mount
  NO_COLOR          if it is set, nothing is coloured

Exit status: 0 done, 1 error, 3 paused, 4 reverted, 5 timeout (the rotation continues), 6 done with cuts,
130 interrupted (the rotation continues).
`

// New returns the hyvve command.
func New() *cobra.Command {
	return usage.WithWrongStatus(usage.NewRoot("hyvve", version.Version, help,
		newStatus(),
		newRotate(),
		newFollow(),
		newGet(),
		newPause(),
		newResume(),
		newConfirm(),
		newRevert(),
		newCompromise(),
		newTune(),
		newJournal(),
		newReceipt(),
		newVerify(),
	), StatusError)
}

// The formats of -o.
const (
	formatText = "text"
	formatJSON = "json"
	formatCSV  = "csv"
)

const (
	defaultMount = "hyvve"
	mountEnv     = "HYVVE_MOUNT"
)

// session is a command that runs.
type session struct {
	name     string // of the command
	out, err io.Writer
	in       *os.File
	format   string
	mount    string
	screen   screen.Screen // of out
	terminal bool          // whether out is one
	vault    *vault
	engine   *client.Client
}

// action is what a command does.
type action func(ctx context.Context, s *session, args []string) error

// add makes a command with the flags that all have. What it prints has one of the formats: text, and those that are given.
func add(path, short, help string, formats []string, do action) *cobra.Command {
	formats = append([]string{formatText}, formats...)
	var mount, format string
	cmd := usage.New("hyvve "+path, short, help, func(cmd *cobra.Command, args []string) error {
		if err := usage.OneOf(format, formats); err != nil {
			return usage.Wrong(fmt.Errorf("--output: %w", err))
		}
		s := &session{name: path, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), in: os.Stdin, format: format}
		if err := s.connect(mount); err != nil {
			return err
		}
		return s.explained(cmd.Context(), do(cmd.Context(), s, args))
	})
	cmd.Flags().StringVar(&mount, "mount", "", "`PATH` of the engine (default HYVVE_MOUNT, or hyvve)")
	cmd.Flags().StringVarP(&format, "output", "o", formatText, "`FORMAT` of what is printed: "+strings.Join(formats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	_ = cmd.RegisterFlagCompletionFunc("mount", cobra.NoFileCompletions)
	return cmd
}

// connect makes the clients. Nothing is sent yet.
func (s *session) connect(mount string) error {
	for _, other := range []string{os.Getenv(mountEnv), defaultMount} {
		if mount == "" {
			mount = other
		}
	}
	s.mount = strings.Trim(mount, "/")
	if s.mount == "" || strings.ContainsAny(s.mount, " ?#%\n") {
		return usage.Wrong(fmt.Errorf("--mount: %q is no path of an engine; write one as \"vault secrets list\" shows it", mount))
	}
	s.screen, s.terminal = screenOf(s.out)
	var err error
	if s.vault, err = newVault(); err != nil {
		return err
	}
	s.engine = client.New(s.vault.Client, s.mount)
	return nil
}

// isTerminal reports whether a file is a terminal.
func isTerminal(file *os.File) bool { return term.IsTerminal(int(file.Fd())) }

// screenOf returns what a writer shows, and whether it is a terminal.
func screenOf(w io.Writer) (screen.Screen, bool) {
	file, ok := w.(*os.File)
	if !ok || !isTerminal(file) {
		return screen.Screen{}, false
	}
	sc := screen.Screen{Colour: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	if width, _, err := term.GetSize(int(file.Fd())); err == nil {
		sc.Width = width
	}
	if width, err := strconv.Atoi(os.Getenv("COLUMNS")); sc.Width == 0 && err == nil {
		sc.Width = max(width, 0)
	}
	return sc, true
}

// commandLine returns a command of hyvve as a person types it for the same mount.
func (s *session) commandLine(words ...string) string {
	line := "hyvve " + strings.Join(words, " ")
	if s.mount != defaultMount && os.Getenv(mountEnv) == "" {
		line += " --mount=" + s.mount
	}
	return line
}

// actOf finds a command of vault to which one of hyvve is equal; readOf, a read of a rotation.
var (
	actOf  = regexp.MustCompile(`vault write -f (\S+)/rotations/(\S+)/(pause|resume|confirm|revert)\b`)
	readOf = regexp.MustCompile(`vault read (\S+)/rotations/([\w.-]*\w)(/receipt| wait=5s)?`)
)

// translated returns what the engine has said, with commands of hyvve in the place of those of vault, where there are.
func (s *session) translated(text string) string {
	text = actOf.ReplaceAllStringFunc(text, func(found string) string {
		of := actOf.FindStringSubmatch(found)
		if of[1] != s.mount {
			return found
		}
		return s.commandLine(of[3], of[2])
	})
	return readOf.ReplaceAllStringFunc(text, func(found string) string {
		of := readOf.FindStringSubmatch(found)
		switch {
		case of[1] != s.mount:
			return found
		case of[3] == "/receipt":
			return s.commandLine("receipt", of[2])
		case of[3] != "":
			return s.commandLine("follow", of[2])
		}
		return s.commandLine("get", of[2])
	})
}

// printJSON writes a value, indented.
func (s *session) printJSON(value any) error {
	encoder := json.NewEncoder(s.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// printJSONLine writes a value in one line.
func (s *session) printJSONLine(value any) error {
	encoder := json.NewEncoder(s.out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// say writes a line.
func (s *session) say(style screen.Style, format string, args ...any) {
	s.screen.Text(s.out, "", screen.Cell{Text: fmt.Sprintf(format, args...), Style: style})
}

// next writes a line that ends with a command to type next. It is not wrapped, so that it can be copied.
func (s *session) next(style screen.Style, format string, args ...any) {
	_, _ = fmt.Fprintln(s.out, s.screen.Paint(style, screen.Clean(fmt.Sprintf(format, args...))))
}

// note writes a line beside the output, to standard error.
func (s *session) note(format string, args ...any) {
	_, _ = fmt.Fprintln(s.err, screen.Clean(fmt.Sprintf(format, args...)))
}

// warn passes on what the engine has warned of.
func (s *session) warn(warnings []string) {
	for _, w := range warnings {
		s.note("Warning: %s", s.translated(w))
	}
}

// pause waits for a time, and reports whether the command should continue.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// span is a flag that takes a duration, days among them.
type span struct {
	d   time.Duration
	set bool
}

// String implements [pflag.Value].
func (s *span) String() string {
	if !s.set {
		return ""
	}
	return duration.Text(s.d)
}

// Set implements [pflag.Value].
func (s *span) Set(text string) error {
	d, err := duration.Parse(text)
	if err != nil || d < 0 {
		return errors.New("a duration, such as 30s, 5m or 2d")
	}
	s.d, s.set = d, true
	return nil
}

// Type implements [pflag.Value].
func (s *span) Type() string { return "DURATION" }

// seconds returns it as a field of a request; nil: it is not set.
func (s *span) seconds() *api.Seconds {
	if !s.set {
		return nil
	}
	return new(api.SecondsOf(s.d))
}

// atMostOne takes one argument, or none.
func atMostOne(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usage.Wrong(fmt.Errorf("%q is one too many: name one %s", args[1], what))
		}
		return nil
	}
}

// completing lets a shell complete arguments: names of keys, and ids of rotations where those are wanted, too.
func completing(cmd *cobra.Command, rotations, several bool) *cobra.Command {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && !several {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		mount, _ := cmd.Flags().GetString("mount") // the flag is there
		s := &session{out: io.Discard, err: io.Discard}
		if err := s.connect(mount); err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		names, err := s.engine.Keys(ctx)
		if rotations {
			ids, more := s.engine.Rotations(ctx)
			slices.Reverse(ids) // the newest first
			names, err = append(names, ids...), errors.Join(err, more)
		}
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(args, name) })
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}
