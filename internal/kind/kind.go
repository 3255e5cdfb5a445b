// SPDX-License-Identifier: Apache-2.0

// Package kind says what a kind of key is: what makes and checks its values and, where a server verifies them, how a
// value becomes valid there and ceases to be. Each kind is a package of its own below this one.
package kind

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Options are what a key's definition sets for its kind, by field name.
type Options map[string]string

// Field describes one option, so that help, defaults and checks come from one place.
type Field struct {
	Name        string
	Default     string
	Description string
	Secret      bool // of a connection: kept as a value, never read back

	// Harmless marks an open field of a connection that does not decide where its secrets are sent, to whom, or how they are
	// protected on the way. When any other open field changes, secrets have to be given again.
	Harmless bool
	// Sends names the secret fields about which an open field decides so. Empty: all.
	Sends []string
	// Lines marks a secret field whose value has several lines, such as a private key in PEM.
	Lines bool
	// Public returns what a journal may keep of an open field: the text without passwords, also those that do not belong there,
	// for which a write is refused. Each of these is Hidden. Nil: PublicText.
	Public func(text string) string
}

// Kind checks values. What else a kind can do are the optional interfaces Generator, Renderer, Verifier, Server and
// Connector.
type Kind interface {
	// Name is what a definition says as kind=.
	Name() string
	// Summary is one sentence for help texts.
	Summary() string
	// Fields are the options it understands.
	Fields() []Field
	// Normalize checks options and returns them with their defaults filled in. The error names the option.
	Normalize(options Options) (Options, error)
	// Check refuses a value that the platform would refuse; warnings are for what it would only complain of.
	// Neither ever holds the value.
	Check(options Options, value key.Value) (warnings []string, err error)
}

// Generator is the optional capability of a kind that makes values. Without it, each value comes from an operator.
type Generator interface {
	// Generate draws a value for the key that takes the place of from, which is empty for a first version.
	Generate(random io.Reader, k key.Key, from key.Value) (key.Value, error)
}

// Renderer is the optional capability of a kind whose values workloads know by further names, such as DIRECT_URL beside
// DATABASE_URL.
type Renderer interface {
	// Names are the further environment names.
	Names(options Options) []string
	// Render returns what a version has under each of them.
	Render(options Options, v key.Version) (map[string]key.Value, error)
}

// Change is what a server is asked about: the key, its old and its new version.
type Change struct {
	Key        key.Key
	From       key.Version // without number and value for a first version
	To         key.Version
	Connection Connection // where the key's options name one
	Cut        bool       // the key is compromised: Retire ends what still uses From
	Kept       string     // of the latest Finding, when the server knew all; "" if there is none
}

// Verifier is the optional capability of a kind that can try a value where it is used.
type Verifier interface {
	// Verify logs in with To, or does what comes closest to it.
	Verify(ctx context.Context, c Change) error
}

// Server is the optional capability of a kind whose values a server verifies. Every call is idempotent: after a crash
// the engine makes it again. No error holds a value.
type Server interface {
	Verifier
	// Stage makes To valid beside From.
	Stage(ctx context.Context, c Change) error
	// InUse counts what still uses From at the server, and says what.
	InUse(ctx context.Context, c Change) (count int, what string, err error)
	// Retire makes From invalid for new logins. It ends the sessions that From still has only if Cut is set.
	Retire(ctx context.Context, c Change) error
	// Unstage makes To invalid and leaves From as it was. To may never have been staged, or in part. Sessions of To are
	// ended where Cut says so; otherwise there are none, since the engine has waited for that.
	Unstage(ctx context.Context, c Change) error
}

// Sampler is the capability of a Server to see sessions that are short. One look misses a client that logs in for some
// milliseconds each second; the engine therefore samples for a while before a version is retired.
type Sampler interface {
	// Sample observes the server for d and counts every session of From that it saw, also those that have ended since. It
	// takes tens to hundreds of samples a second, as many as cost the server at most about 2 % of a core, on every node,
	// replica and pooler that InUse asks. It may return before d is over if it saw a session. It finds all that InUse finds.
	// The error is an Unattributed if it saw nobody, and cannot rule out that somebody logged in for too short a time to be seen.
	Sample(ctx context.Context, c Change, d time.Duration) (count int, what string, err error)
}

// Unattributed is the error of a Sampler that saw no session of the old version, although the server counts logins that no
// sample has seen, or does not count. The engine then samples for longer: a client that comes back is seen sooner or later.
type Unattributed struct {
	Logins    int
	At        string // the server
	Uncounted string // why the server's logins are not known; empty: they are
}

func (u Unattributed) Error() string {
	if u.Uncounted != "" {
		return fmt.Sprintf("short logins at %s cannot be counted: %s", u.At, u.Uncounted)
	}
	return fmt.Sprintf("%d logins at %s were too short to see whose they were", u.Logins, u.At)
}

// ChangeChecker is the optional capability of a kind that can tell of some changes, without asking a server, that they
// cannot be made. They are refused before anything is stored. The error names the remedy and holds no value.
type ChangeChecker interface {
	CheckChange(c Change) error
}

// Preflighter is the optional capability of a server's kind to check, before the first change, all that a later step will
// need. It changes nothing. The engine asks for it in a plan (dry_run) and before it stages, and again when it retries.
type Preflighter interface {
	// Preflight returns what would stop the change (blockers) and what an operator should know (notes). A blocker names
	// the remedy, such as the exact GRANT that is missing. To may be staged already. The error is for what could not be
	// checked. None of them holds a value.
	Preflight(ctx context.Context, c Change) (blockers, notes []string, err error)
}

// OptionConnection is the option of a key that names its connection, where the kind is a Connector.
const OptionConnection = "connection"

// OptionUsername is the option of a key that names its logins at a server, where its kind makes them.
const OptionUsername = "username"

// List is the registered kinds.
type List []Kind

// Get returns the kind of that name; the error lists those there are.
func (l List) Get(name string) (Kind, error) {
	for _, k := range l {
		if k.Name() == name {
			return k, nil
		}
	}
	return nil, fmt.Errorf("kind %s is not known; use one of: %s", Quote(name), strings.Join(l.Names(), ", "))
}

// Names returns the names, sorted.
func (l List) Names() []string {
	names := make([]string, 0, len(l))
	for _, k := range l {
		names = append(names, k.Name())
	}
	slices.Sort(names)
	return names
}

// Defaults returns options with the fields' defaults, and an error that names an option which is no field.
func Defaults(fields []Field, options Options) (Options, error) {
	full := Options{}
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		full[f.Name] = f.Default
		names = append(names, f.Name)
	}
	for name, value := range options {
		if _, ok := full[name]; !ok {
			return nil, fmt.Errorf("option %q is not known to this kind; it has: %s", name, strings.Join(names, ", "))
		}
		if value != "" {
			full[name] = value
		}
	}
	return full, nil
}

// MaxServerText is how many bytes of a server's message an error quotes.
const MaxServerText = 500

// Line returns at most so many bytes of a text that a server, or an application by way of it, has chosen, on one line, and … where
// it is longer. What a terminal would obey or hide is escaped: such a text stands in plans and in status, beside commands to type.
// The bound is that of the escaped text.
func Line(text string, most int) string {
	text = strings.ToValidUTF8(CutText(text, most), "\uFFFD")
	if len(text) <= most && !strings.ContainsFunc(text, hides) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		piece := string(r)
		if hides(r) {
			piece = fmt.Sprintf("\\u%04x", r)
		}
		if b.Len()+len(piece) > most {
			b.WriteString("…")
			break
		}
		b.WriteString(piece)
	}
	return b.String()
}

func hides(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// ShellQuote returns a text as one word of a shell's command.
func ShellQuote(text string) string {
	if text != "" && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz_") == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
