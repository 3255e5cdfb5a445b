// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest/toy"
)

// brokenServers do at the server what they should not, or not what they should. The latter half works as long as nothing
// happens.
var brokenServers = map[string]variant{
	"nothing is broken":           {"rotation", "", breaks(func(*broken) {})},
	"stage is not idempotent":     {"rotation", "Stage again", fails("Stage", "it is there", there(fresh))},
	"stage does nothing":          {"first version", "login", without("Stage")},
	"stage drops the old login":   {"rotation", "after Stage: the old version is not valid", after("Stage", drop(old))},
	"stage ends old sessions":     {"rotation", "Stage ends a session", after("Stage", end(old))},
	"stage leaves a stray":        {"revert", "can log in; before it was", after("Stage", makeStray)},
	"stage takes a login":         {"login of somebody else", "Stage succeeds although somebody else", instead("Stage", func(b *broken, ctx Context, c Change) error { return b.does([]deed{set})(ctx, c) })},
	"stage carries out a note":    {"hostile users", "a note has made user", after("Stage", carryOut)},
	"the second rotation fails":   {"rotation", "Stage: no more", fails("Stage", "no more", func(_ *broken, c Change) bool { return c.To.Number > 2 })},
	"verify takes everything":     {"rotation", "Verify succeeds before", without("Verify")},
	"retire forgets":              {"rotation", "after Retire: the old version is valid", without("Retire")},
	"retire is not idempotent":    {"rotation", "Retire again", fails("Retire", "it is gone", gone(old))},
	"retire ends new sessions":    {"rotation", "Retire ends a session of the new", after("Retire", end(fresh))},
	"retire makes a stray":        {"rotation", "after a rotation", after("Retire", makeStray)},
	"retire drops any login":      {"retire of a claimed login", "after Retire: ", before("Retire", drop(old))},
	"retire ends any session":     {"retire of a claimed login", "Retire ends a session of a login that another", before("Retire", end(old))},
	"retire claims nothing":       {"retire of a claimed login", "Retire succeeds although another key", without("Retire")},
	"unstage forgets":             {"revert", "after Unstage: the new version is valid", without("Unstage")},
	"unstage drops the old login": {"revert", "after Unstage: the old version is not valid", after("Unstage", drop(old))},
	"unstage ends old sessions":   {"revert", "Unstage ends a session of the old", after("Unstage", end(old))},
	"unstage is not idempotent":   {"revert", "Unstage again", fails("Unstage", "it is gone", gone(fresh))},
	"unstage needs a stage":       {"unstage without stage", "Unstage: it is gone", fails("Unstage", "it is gone", gone(fresh))},
	"unstage drops any login":     {"login of somebody else", "Unstage changes a login of somebody else", after("Unstage", drop(fresh))},
	"undelete drops the current":  {"undelete", "after Undelete: the old version is not valid", after("Undelete", drop(old))},
	"undelete does nothing":       {"undelete while the server is down", "Undelete succeeds while the server is down", without("Undelete")},
	"in use sees nobody":          {"rotation", "InUse counts 0 while two sessions", counts(func(Change, int, string) (int, string) { return 0, "" })},
	"in use says a number only":   {"rotation", "does not say what", counts(func(_ Change, n int, _ string) (int, string) { return n, "" })},
	"in use says the value":       {"rotation", "what InUse says holds a secret", counts(func(c Change, n int, _ string) (int, string) { return n, c.From.Value.Reveal() })},
	"in use sees everybody": {"rotation", "does not come about", breaks(func(b *broken) {
		b.inUse = func(ctx Context, c Change) (int, string, error) {
			n, _, err := b.Kind.InUse(ctx, c)
			m, what, err2 := b.Kind.InUse(ctx, back(c))
			return n + m, what, errors.Join(err, err2)
		}
	})},
	"in use knows one direction": {"revert", "asked for a revert", counts(func(c Change, n int, what string) (int, string) {
		if c.From.Number > c.To.Number {
			return 0, ""
		}
		return n, what
	})},
	"sample looks once": {"short sessions", "Sample misses 5 of 5", world(func(k toy.Kind) kind.Kind { return hasty{k} })},
	"retire does not cut": {"compromised", "does not come about", instead("Retire", func(b *broken, ctx Context, c Change) error {
		c.Cut = false
		return b.Kind.Retire(ctx, c)
	})},

	"a stage that was cut leaves a stray": {"cut stage then unstage", "can log in; before it was", breaks(func(b *broken) {
		b.calls["Stage"] = then(b.does([]deed{makeStray}), then(b.Kind.Stage, b.does([]deed{dropStray})))
	})},
	"a stage that was cut is never done": {"cut calls are repeated", "Stage: begun already", fails("Stage", "begun already", func(b *broken, c Change) bool {
		before := b.begun
		b.begun = c.To.Number
		return b.begun > 1 && b.begun == before
	})},
	"retire makes the new login again": {"cut calls are repeated", "after Retire was cut: a version that it does not concern is not valid", before("Retire", drop(fresh), set)},
	"the first password is kept": {"wrong administrator password", "succeeds with a wrong administrator password", instead("Stage", func(b *broken, ctx Context, c Change) error {
		c.Connection.Next = key.NewValue(administrator)
		return b.Kind.Stage(ctx, c)
	})},
	"a wrong password is kept": {"wrong administrator password", "Stage: the directory refuses", sticky("Stage", "")},
	"half is done at once": {"wrong administrator password", "before it was", instead("Unstage", func(b *broken, ctx Context, c Change) error {
		b.Directory.Add(stray(c), "password")
		return b.Kind.Unstage(ctx, c)
	})},
	"an error says the password": {"wrong administrator password", "holds a secret", instead("Stage", func(b *broken, ctx Context, c Change) error {
		return wrapped(fmt.Sprintf("%q", c.Connection.Passwords()[0].Reveal()), b.Kind.Stage(ctx, c))
	})},
	"an error says the value": {"rotation", "the error of Verify holds a secret", instead("Verify", func(b *broken, ctx Context, c Change) error {
		return wrapped(c.To.Value.Reveal(), b.Kind.Verify(ctx, c))
	})},
	"a server that is down is no error": {"server down", "Verify succeeds while", instead("Verify", func(b *broken, ctx Context, c Change) error {
		if err := b.Kind.Verify(ctx, c); c.To.State != key.Staged {
			return err
		}
		return nil
	})},
	"a connection that broke is kept": {"server down", "Stage: broken pipe", sticky("Stage", "broken pipe")},
	"calls at once lock each other out": {"calls at once", "Unstage: locked", instead("Unstage", func(b *broken, ctx Context, c Change) error {
		if b.under.Add(1) > 1 { // and is never unlocked
			return errors.New("locked")
		}
		err := b.Kind.Unstage(ctx, c)
		b.under.CompareAndSwap(1, 0)
		return err
	})},
	"the context is ignored": {"server hangs", "has not returned", instead("Retire", func(b *broken, ctx Context, c Change) error {
		return b.Kind.Retire(context.WithoutCancel(ctx), c)
	})},
}

func makeStray(ctx Context, a *toy.Administrator, c Change) error {
	return a.Set(ctx, stray(c), "password")
}
func dropStray(ctx Context, a *toy.Administrator, c Change) error { return a.Drop(ctx, stray(c)) }

// carryOut does what the old version's user says of itself.
func carryOut(ctx Context, a *toy.Administrator, c Change) error {
	note, err := a.Note(ctx, old(c))
	if word := strings.Fields(note); err == nil && len(word) == 3 {
		err = a.Set(ctx, word[1], word[2])
	}
	return err
}

// sticky has a call that has failed fail again, with that error or with another text.
func sticky(call, text string) maker {
	return breaks(func(b *broken) {
		var failed error
		whole := b.calls[call]
		b.calls[call] = func(ctx Context, c Change) error {
			switch {
			case failed == nil:
				failed = whole(ctx, c)
			case text != "":
				return errors.New(text)
			}
			return failed
		}
	})
}

func wrapped(text string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	return nil
}

// counts replaces what InUse says.
func counts(say func(c Change, n int, what string) (int, string)) maker {
	return breaks(func(b *broken) {
		b.inUse = func(ctx Context, c Change) (int, string, error) {
			n, what, err := b.Kind.InUse(ctx, c)
			n, what = say(c, n, what)
			return n, what, err
		}
	})
}

type hasty struct{ toy.Kind }

func (k hasty) Sample(ctx Context, c Change, _ time.Duration) (int, string, error) {
	return k.InUse(ctx, c)
}

// previews replaces what Preflight finds.
func previews(say func(b *broken, c Change) (blocker, note string, err error)) maker {
	return breaks(func(b *broken) {
		b.preflight = func(_ Context, c Change) (blockers, notes []string, err error) {
			blocker, note, err := say(b, c)
			if blocker != "" {
				blockers = []string{blocker}
			}
			return blockers, []string{note}, err
		}
	})
}

var blind = previews(func(_ *broken, c Change) (_, note string, _ error) { return "", c.To.Value.Reveal(), nil })

// rendering is a kind with a further name, which renders under that or another one, and quotes what it does not render or not.
func rendering(name, as string, quotes bool) maker {
	return world(func(k toy.Kind) kind.Kind { return renders{k, name, as, quotes} })
}

type renders struct {
	toy.Kind
	name, as string
	quotes   bool
}

func (r renders) Names(kind.Options) []string { return []string{r.name} }

func (r renders) Render(_ kind.Options, of key.Version) (map[string]key.Value, error) {
	v := of.Value
	if r.quotes && userOf(v) != "app_a" {
		return nil, fmt.Errorf("%q is no login", v.Reveal())
	}
	return map[string]key.Value{r.as: v}, nil
}

// verifies is the toy kind with values of an operator, which it can try and no more.
type verifies struct {
	kind.Kind
	verify act
}

func (v verifies) Verify(ctx Context, c Change) error { return v.verify(ctx, c) }

// verifying is a world around it. say replaces what Verify says.
func verifying(say func(c Change, err error) error) maker {
	return func() World {
		w, d := importing(value("app_a", "first-password"), func(k toy.Kind) kind.Kind {
			return verifies{k, func(ctx Context, c Change) error { return say(c, k.Verify(ctx, c)) }}
		})
		d.Add("app_b", "second-password")
		w.Refused = value("app_a", "other-password")
		w.Values = []key.Value{value("app_b", "second-password"), value("app_b", "third-password")}
		return w
	}
}

// brokenVerifiers can try a value and no more.
var brokenVerifiers = map[string]variant{
	"a verifier takes everything": {"verify", "takes World.Refused", verifying(func(Change, error) error { return nil })},
	"a verifier takes nothing":    {"verify", "Verify of First", verifying(func(Change, error) error { return errors.New("no") })},
	"a verifier takes any of a user's": {"verify", "of a value of which", verifying(func(c Change, err error) error {
		if fresh(c) == "app_b" {
			return nil
		}
		return err
	})},
	"a verifier needs no server": {"verify while the server is down", "while the server is down", verifying(func(_ Change, err error) error {
		if err != nil && strings.Contains(err.Error(), "refuse") {
			return err
		}
		return nil
	})},
}

// brokenWords are wrong in what they read, draw and say.
var brokenWords = map[string]variant{
	"description":                       {"description", "is not one sentence|option user is secret|is there twice|field user is not described|a journal would keep a secret that stands in field note", allWrong},
	"connection fields":                 {"connection fields", "has no secret field|have no option", allWrong},
	"options":                           {"options", "not refused by its name|Normalize again|Normalize quotes a secret that stands in field note", allWrong},
	"check":                             {"check tells nothing", "a warning holds a secret|the error of Check holds a secret|takes an empty value", allWrong},
	"generate":                          {"generate", "a value again|from the same randomness|a reader that fails|Check refuses what", allWrong},
	"a login is named by its password":  {"names logins", "names nobody, or by a password", allWrong},
	"an option's host is called unsaid": {"leads nowhere else", "Verify calls a host that option username names", world(func(k toy.Kind) kind.Kind { return caller{k} })},
	"names":                             {"render", "Names", rendering("LOGIN_NAME", "LOGIN_USER", false)},
	"a name is the key's":               {"render", "the key's own", rendering("LOGIN", "LOGIN", false)},
	"render quotes":                     {"render", "holds a secret", rendering("LOGIN_USER", "LOGIN_USER", true)},
	"a query may hold a password": {"credentials in the query of a value", "a value with password= in its query is not refused by the name password", func() World {
		w := allWrong()
		w.First = key.NewValue("toy://app:first-password@directory/")
		return w
	}},

	"preflight sees nobody": {"login of somebody else", "Preflight names no blocker although somebody else", blind},
	"preflight asks nobody": {"preflight", "Preflight succeeds while the server is down|what Preflight says holds a secret", blind},
	"preflight blocks":      {"preflight", "Preflight before Stage: no", previews(func(*broken, Change) (blocker, _ string, _ error) { return "no", "", nil })},
	"preflight fails":       {"preflight", "Preflight: not today", previews(func(*broken, Change) (_, _ string, _ error) { return "", "", errors.New("not today") })},
	"preflight stages":      {"preflight", "after Preflight: ", previews(func(b *broken, c Change) (_, _ string, _ error) { return "", "", b.Kind.Stage(context.Background(), c) })},
	"preflight takes a staged version for a stranger": {"preflight", "Preflight after Stage: it is there", previews(func(b *broken, c Change) (blocker, _ string, _ error) {
		if there(fresh)(b, c) {
			blocker = "it is there"
		}
		return blocker, "", nil
	})},
}

// wrong is a kind of which all is wrong that asks no server.
type wrong struct{ toy.Kind }

var allWrong = world(func(k toy.Kind) kind.Kind { return wrong{k} })

func (wrong) Summary() string                   { return "A login. It is verified." }
func (k wrong) ConnectionFields() []kind.Field  { return k.Kind.ConnectionFields()[:1] }
func (wrong) Login(v key.Value) (string, error) { _, password := split(v); return password, nil }
func (wrong) Fields() []kind.Field {
	return []kind.Field{
		{Name: "user", Description: "the user", Secret: true},
		{Name: "user"},
		{Name: "note", Description: "What it is for.", Public: func(text string) string { return text }},
	}
}

func (k wrong) Normalize(o kind.Options) (kind.Options, error) {
	if note := o["note"]; note != "" {
		return nil, errors.New(note + " is not right")
	}
	return with(o, "user", o["user"]+"x"), nil
}

func (wrong) Check(_ kind.Options, v key.Value) ([]string, error) {
	warnings := []string{"is " + v.Reveal() + " right?"}
	if v.Empty() || strings.Contains(v.Reveal(), "?") {
		return warnings, nil
	}
	return warnings, errors.New(v.Reveal() + " is not right")
}

func (wrong) Generate(random io.Reader, _ key.Key, _ key.Value) (key.Value, error) {
	n, _ := random.Read(make([]byte, 16))
	return value("app_a", fmt.Sprintf("password-%d", n)), nil
}

// caller is a kind that verifies at the host that its option username names.
type caller struct{ toy.Kind }

func (k caller) Normalize(o kind.Options) (kind.Options, error) { return kind.Defaults(k.Fields(), o) }

func (k caller) Verify(ctx Context, c Change) error {
	if at := c.Key.Options["username"]; strings.Contains(at, ":") {
		return callUp(ctx, at, "hello")
	}
	return k.Kind.Verify(ctx, c)
}

// callUp sends a text to an address, and waits for an answer.
func callUp(ctx Context, at, text string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", at)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is pending
	_, err = conn.Write([]byte(text))
	_, err2 := conn.Read(make([]byte, 1))
	return errors.Join(err, err2)
}

// brokenConnectors are wrong about their administrator.
var brokenConnectors = map[string]variant{
	"the URL is called harmless":             {"secrets stay where they were given for", "field url is said to decide nothing about where password is sent", sends(func(f *kind.Field) { f.Harmless = true })},
	"the URL is said to send another secret": {"secrets stay where they were given for", "told the secret: true", sends(func(f *kind.Field) { f.Sends = []string{"other"} })},
	"the URL binds the password":             {"secrets stay where they were given for", "", sends(func(*kind.Field) {})},
	"the URL keeps the password":             {"normalize connection", "does not move a password|holds a secret|not refused by its name", anyConnection},
	"an error quotes a field":                {"normalize connection", "NormalizeConnection quotes a secret that stands in field allowed_hosts", quotesConnection},
	"the URL's query may hold a password":    {"credentials in the query of a connection", "is not refused by the name password", anyConnection},
	"any password will do":                   {"check connection", "takes a wrong password", checks(func(kind.Connection, error) (string, error) { return "", nil })},
	"a note says the password":               {"check connection", "a note of CheckConnection holds a secret", checks(func(c kind.Connection, err error) (string, error) { return c.Passwords()[0].Reveal(), err })},
	"an error says the password, percent-encoded": {"check connection", "the error of CheckConnection holds a secret", checks(func(c kind.Connection, err error) (string, error) {
		return "", wrapped(url.QueryEscape(c.Passwords()[0].Reveal()), err)
	})},
	"the next password is not tried": {"rotate root", "in force and not stored", breaks(func(b *broken) {
		b.check = func(ctx Context, c kind.Connection) ([]string, error) {
			c.Next = key.Value{}
			return b.Kind.CheckConnection(ctx, c)
		}
	})},
	"the next password is tried alone": {"rotate root", "Stage: the directory refuses", instead("Stage", func(b *broken, ctx Context, c Change) error {
		if next := c.Connection.Next; !next.Empty() {
			c.Connection.Secrets, c.Connection.Next = map[string]key.Value{kind.FieldPassword: next}, key.Value{}
		}
		return b.Kind.Stage(ctx, c)
	})},
	"the old password alone may rotate":  {"rotate root", "RotateRoot: the directory refuses", rotates(1, "")},
	"rotate root locks out for a moment": {"cut rotate root is repeated", "neither password is in force", rotates(2, "locked")},
	"rotate root does nothing":           {"rotate root", "with the password that RotateRoot has set|RotateRoot succeeds with a wrong password", rotates(0, "")},
}

// quotesConnection quotes in an error what it does not know.
var quotesConnection = breaks(func(b *broken) {
	b.normalize = func(c kind.Connection) (kind.Connection, error) {
		if host := c.Options[kind.FieldAllowedHosts]; host != "" {
			return c, errors.New(host + " is not known")
		}
		return b.Kind.NormalizeConnection(c)
	}
})

// anyConnection is taken as it is.
var anyConnection = breaks(func(b *broken) {
	b.normalize = func(c kind.Connection) (kind.Connection, error) { return c, nil }
})

// sends has CheckConnection send the password to whatever host url names, and declares url.
func sends(declare func(f *kind.Field)) maker {
	return breaks(func(b *broken) {
		fields := b.Kind.ConnectionFields()
		declare(&fields[0])
		b.fields = func() []kind.Field { return fields }
		b.check = func(ctx Context, c kind.Connection) ([]string, error) {
			_, host, _ := strings.Cut(c.Options["url"], "@")
			return nil, callUp(ctx, host, c.Secrets[kind.FieldPassword].Reveal())
		}
	})
}

// checks replaces what CheckConnection says.
func checks(say func(c kind.Connection, err error) (note string, _ error)) maker {
	return breaks(func(b *broken) {
		b.check = func(ctx Context, c kind.Connection) ([]string, error) {
			_, err := b.Kind.CheckConnection(ctx, c)
			note, err := say(c, err)
			return []string{note}, err
		}
	})
}

// rotates has RotateRoot log in with the first of the passwords, set one for a moment, and then the next one.
func rotates(most int, moment string) maker {
	return breaks(func(b *broken) {
		b.rotateRoot = func(ctx Context, c kind.Connection) error {
			if most == 0 {
				return nil
			}
			all := c.Passwords()
			a, err := b.Directory.Administrator(ctx, all[:min(most, len(all))])
			if err == nil && moment != "" {
				err = a.SetOwnPassword(ctx, moment)
			}
			if err == nil {
				err = a.SetOwnPassword(ctx, c.Next.Reveal())
			}
			return err
		}
	})
}
