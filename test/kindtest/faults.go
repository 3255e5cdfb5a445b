// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"errors"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing/iotest"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// cuts are when a call is cut short, so that a call of a few round trips is cut in each of them.
var cuts = []time.Duration{
	0, 250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond, 4 * time.Millisecond,
	6 * time.Millisecond, 8 * time.Millisecond, 12 * time.Millisecond, 16 * time.Millisecond, 24 * time.Millisecond, 32 * time.Millisecond,
	48 * time.Millisecond, 64 * time.Millisecond, 96 * time.Millisecond, 128 * time.Millisecond, 256 * time.Millisecond,
}

// cutStage withdraws what was staged in part.
func cutStage(s *suite) {
	before := s.names()
	for _, after := range cuts {
		c := s.plan()
		done := s.try(stage, c, after) == nil
		s.expectOf("after Stage was cut", "the old version", c.From, true)
		s.ok(unstage, c)
		s.expect("after Unstage of a Stage that was cut", c, true, false)
		s.noStrays("after Unstage of a Stage that was cut", before)
		s.reverted(c)
		if done {
			break
		}
	}
	s.rotate()
	s.asMany(before)
}

// asMany sees that a rotation leaves as many who can log in as there were.
func (s *suite) asMany(before []string) {
	s.Helper()
	if after := s.names(); len(after) != len(before) {
		s.Fatalf("after a rotation %q can log in; before it was %q", after, before)
	}
}

// cutCalls repeats each call, cut later each time, until it is done; then all is as if it had been made once.
func cutCalls(s *suite) {
	before := s.names()
	for range 2 {
		c := s.plan()
		s.repeat(stage, c, c.From)
		s.expect("after Stage was repeated", c, true, true)
		s.repeat(verify, c, c.From, c.To)
		s.repeat(unstage, c, c.From)
		s.expect("after Unstage was repeated", c, true, false)
		s.noStrays("after Unstage was repeated", before)
		s.reverted(c)

		c = s.plan()
		s.repeat(stage, c, c.From)
		s.ok(verify, c)
		c = s.promoted(c)
		s.repeat(inUse, c, c.From, c.To)
		s.repeat(retire, c, c.To)
		s.expect("after Retire was repeated", c, false, true)
		s.ok(verify, c)
		s.retired(c)
		s.asMany(before)
		before = s.names()
	}
}

// repeat makes a call, cut later each time, and then whole. The versions that stay are valid all the while.
func (s *suite) repeat(x call, c kind.Change, stay ...key.Version) {
	s.Helper()
	for _, after := range cuts {
		err := s.try(x, c, after)
		for _, v := range stay {
			s.expectOf("after "+x.name+" was cut", "a version that it does not concern", v, true)
		}
		if err == nil {
			break
		}
	}
	s.ok(x, c)
}

// callsAtOnce makes each call several times at the same time, as when a leader is replaced that still waits for an answer.
// Some may fail; what is done then is done once, and the call works again.
func callsAtOnce(s *suite) {
	const several = 4
	before := s.names()
	atOnce := func(x call, c kind.Change) {
		var all sync.WaitGroup
		for range several {
			all.Go(func() {
				if err := s.try(x, c, patience); err != nil {
					s.Logf("one of %d calls of %s at once: %v", several, x.name, err)
				}
			})
		}
		all.Wait()
		s.ok(x, c)
	}
	for range 2 {
		c := s.plan()
		atOnce(stage, c)
		atOnce(verify, c)
		s.expect("after Stage several times at once", c, true, true)
		atOnce(unstage, c)
		s.expect("after Unstage several times at once", c, true, false)
		s.noStrays("after Unstage several times at once", before)
		s.reverted(c)
		c = s.plan()
		s.ok(stage, c)
		s.ok(verify, c)
		c = s.promoted(c)
		atOnce(inUse, c)
		atOnce(retire, c)
		s.expect("after Retire several times at once", c, false, true)
		s.retired(c)
		s.asMany(before)
		before = s.names()
	}
}

// wrongAdministrator makes each call with a password that the server refuses: nothing changes, and the right one continues.
func wrongAdministrator(s *suite) {
	right, wrong := s.Connection, s.wrongPassword()
	before := s.names()
	c := s.plan()
	c.Connection = wrong
	s.fails(stage, c, "with a wrong administrator password")
	s.fails(unstage, c, "with a wrong administrator password")
	s.expect("after Stage with a wrong administrator password", c, true, false)
	s.noStrays("after Stage with a wrong administrator password", before)

	c.Connection = right
	s.ok(stage, c)
	staged := s.names()
	c = s.promoted(c)
	c.Connection = wrong
	for _, x := range []call{inUse, retire, unstage} {
		s.fails(x, c, "with a wrong administrator password")
		s.expect("after "+x.name+" with a wrong administrator password", c, true, true)
		s.noStrays("after "+x.name+" with a wrong administrator password", staged)
	}

	c.Connection = right
	s.ok(verify, c)
	s.ok(retire, c)
	s.expect("after Retire with the right password again", c, false, true)
}

// wrongPassword is the connection as an operator might write it by mistake.
func (s *suite) wrongPassword() kind.Connection {
	s.Helper()
	wrong := s.Connection
	wrong.Secrets = maps.Clone(wrong.Secrets)
	wrong.Secrets[kind.FieldPassword] = key.NewValue("wrong/p:a@s%s?w#o r\"d'9Zk4")
	wrong.Next = key.Value{}
	wrong.Revision++
	s.secrets.add(s, wrong.Secrets[kind.FieldPassword])
	return wrong
}

// serverDown makes each call while nobody listens, and again when somebody does. The Kind is the same one.
func serverDown(s *suite) {
	const down, up = "while the server is down", "after the server has come back"
	before := s.names()
	c := s.plan()
	s.whileDown(func() { s.fails(stage, c, down) })
	s.ok(stage, c)
	s.expect(up, c, true, true)
	s.whileDown(func() {
		for _, x := range []call{verify, inUse, unstage} {
			s.fails(x, c, down)
		}
	})
	s.ok(verify, c)
	s.ok(inUse, c)
	s.expect(up, c, true, true)
	s.whileDown(func() { s.fails(unstage, c, down) })
	s.ok(unstage, c)
	s.expect(up, c, true, false)
	s.noStrays(up, before)
	s.reverted(c)

	c = s.plan()
	s.ok(stage, c)
	s.ok(verify, c)
	c = s.promoted(c)
	s.whileDown(func() { s.fails(retire, c, down) })
	s.expect(up, c, true, true)
	s.whileDown(func() {})
	s.ok(retire, c)
	s.expect(up, c, false, true)
	s.retired(c)
	s.whileDown(func() {})
	s.rotate()
}

// whileDown does something while the server is down.
func (s *suite) whileDown(do func()) {
	s.Helper()
	s.Stop(s)
	defer s.Start(s) // also after a Fatal: others may share the server
	do()
}

// serverHangs makes each call while the server answers nothing: only the context ends it.
func serverHangs(s *suite) {
	before := s.names()
	c := s.plan()
	for _, x := range []call{stage, verify, inUse, retire, unstage} {
		s.whileFrozen(func() {
			if s.try(x, c, hanging) == nil && (x.name != inUse.name || !s.sessionless()) {
				s.Errorf("%s succeeds while the server answers nothing", x.name)
			}
		})
		s.ok(unstage, c) // the server may execute the statements that it has received when it continues
		s.noStrays("after "+x.name+" of a server that hung", before)
	}
}

func (s *suite) whileFrozen(do func()) {
	s.Helper()
	defer s.Freeze(s)()
	do()
}

func verifyWhileDown(s *suite) {
	verifier, _ := s.Kind.(kind.Verifier)
	c := s.plan()
	c.To.Value = s.First
	try := func(limit time.Duration) error {
		return s.within(limit, "Verify", func(ctx context.Context) error { return verifier.Verify(ctx, c) })
	}
	for range 2 {
		if err := try(patience); err != nil {
			s.Fatalf("Verify: %v", err)
		}
		s.whileDown(func() {
			if try(failing) == nil {
				s.Error("Verify succeeds while the server is down")
			}
		})
	}
	if err := try(patience); err != nil {
		s.Fatalf("Verify after the server has come back: %v", err)
	}
}

// unknown is an option that no kind has.
const unknown = "no_such_option"

var fieldForm = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

func description(s *suite) {
	if err := key.ValidateName("kind", s.Kind.Name()); err != nil {
		s.Error(err)
	}
	if summary := s.Kind.Summary(); len(summary) < 10 || strings.HasSuffix(summary, ".") || strings.Contains(summary, "\n") {
		s.Errorf("the summary %q is not one sentence without a full stop", summary)
	}
	s.fields(s.Kind.Fields())
	for _, f := range s.Kind.Fields() {
		if f.Secret {
			s.Errorf("option %s is secret, which only fields of a connection can be", f.Name)
		}
	}
}

func (s *suite) fields(fields []kind.Field) {
	s.Helper()
	seen := map[string]bool{}
	for _, f := range fields {
		if !fieldForm.MatchString(f.Name) || seen[f.Name] {
			s.Errorf("field name %q is not in lower case, or is there twice", f.Name)
		}
		if len(f.Description) < 10 || !strings.HasSuffix(f.Description, ".") {
			s.Errorf("field %s is not described in a sentence: %q", f.Name, f.Description)
		}
		seen[f.Name] = true
		for _, text := range misplaced {
			if public := kind.PublicOption(fields, f.Name, text); strings.Contains(public, canary) {
				s.Errorf("a journal would keep a secret that stands in field %s: %q", f.Name, public)
			}
		}
	}
}

func options(s *suite) {
	given := maps.Clone(s.Key.Options)
	once, err := s.Kind.Normalize(given)
	if err != nil {
		s.Fatalf("Normalize: %v", err)
	}
	if !maps.Equal(given, s.Key.Options) {
		s.Error("Normalize changes the options that it was given")
	}
	twice, err := s.Kind.Normalize(once)
	if err != nil || !maps.Equal(once, twice) {
		s.Errorf("Normalize again gives %v (%v) from %v", twice, err, once)
	}
	for _, f := range s.Kind.Fields() {
		if _, ok := once[f.Name]; !ok {
			s.Errorf("Normalize leaves out option %s", f.Name)
		}
	}
	more := maps.Clone(once)
	more[unknown] = "1"
	if _, err := s.Kind.Normalize(more); err == nil || !strings.Contains(err.Error(), unknown) {
		s.Errorf("an unknown option %q is not refused by its name: %v", unknown, err)
	}
	s.quotesNone("Normalize", s.Kind.Fields(), once, func(o kind.Options) error {
		_, err := s.Kind.Normalize(o)
		return err
	})
	if _, err := s.Kind.Normalize(nil); err != nil && !slices.ContainsFunc(s.Kind.Fields(), func(f kind.Field) bool { return strings.Contains(err.Error(), f.Name) }) {
		s.Errorf("Normalize without options: the error names none: %v", err)
	}
}

// quotesNone fails if an error of a call quotes a secret that stands in one of the open fields.
func (s *suite) quotesNone(call string, fields []kind.Field, right kind.Options, normalize func(kind.Options) error) {
	s.Helper()
	for _, f := range fields {
		if f.Secret {
			continue
		}
		for _, text := range misplaced {
			options := maps.Clone(right)
			options[f.Name] = text
			if err := normalize(options); err != nil && strings.Contains(err.Error(), canary) {
				s.Errorf("%s quotes a secret that stands in field %s: %v", call, f.Name, err)
			}
		}
	}
}

// checkTellsNothing returns Check values that are right, nearly right and wrong.
func checkTellsNothing(s *suite) {
	current, _ := s.key.Current()
	warnings, err := s.Kind.Check(s.key.Options, current.Value)
	if err != nil {
		s.Errorf("Check refuses the first version: %v", err)
	}
	s.secrets.absentText(s, "a warning", strings.Join(warnings, "; "))
	if _, err := s.Kind.Check(s.key.Options, key.Value{}); err == nil {
		s.Error("Check takes an empty value")
	}
	for _, v := range wrongValues(current.Value.Reveal()) {
		s.canaries(v)
		warnings, err := s.Kind.Check(s.key.Options, key.NewValue(v))
		s.secrets.absent(s, "the error of Check", err)
		s.secrets.absentText(s, "a warning", strings.Join(warnings, "; "))
	}
}

const canary = "canary7Qx3"

// misplaced are texts with a secret, which an operator may have put into any option.
var misplaced = []string{
	canary + "@host", "x://someone:" + canary + "@host/?password=" + canary, "-----BEGIN PRIVATE KEY-----\n" + canary,
}

// canaries makes a wrong value a secret, with what stands in it.
func (s *suite) canaries(v string) {
	s.Helper()
	s.secrets.add(s, key.NewValue(canary))
	if strings.HasPrefix(v, canary) {
		s.secrets.add(s, key.NewValue(v))
	}
}

func wrongValues(right string) []string {
	middle := len(right) / 2
	return []string{
		canary, canary + "\n", canary + "\x00", canary + "\xff\xfe", " " + canary, "%" + canary, canary + "%zz",
		right + canary, right + "\n" + canary, canary + right, right[:middle] + canary + right[middle:], right[:middle] + "%zz" + canary + right[middle:],
		"postgresql://" + canary, "postgresql://someone:" + canary + "@[::1", "postgresql://someone:" + canary + "%@host:port/db?sslmode=maybe",
		"redis://:" + canary + "@host:99999/x", "redis://someone:" + canary + "@/", "https://someone:" + canary + "@host/\x7f",
		strings.Repeat(canary, 1000),
	}
}

func generate(s *suite) {
	generator, _ := s.Kind.(kind.Generator)
	current, _ := s.key.Current()
	draw := func(random io.Reader) (key.Value, error) {
		v, err := generator.Generate(random, s.key, current.Value)
		s.secrets.add(s, v)
		s.secrets.absent(s, "the error of Generate", err)
		return v, err
	}
	seen := map[string]bool{current.Value.Reveal(): true}
	random := seeded(2)
	for range 20 {
		v, err := draw(random)
		if err != nil {
			s.Fatalf("Generate: %v", err)
		}
		if seen[v.Reveal()] {
			s.Error("Generate gives a value again")
		}
		seen[v.Reveal()] = true
		if _, err := s.Kind.Check(s.key.Options, v); err != nil {
			s.Errorf("Check refuses what Generate gives: %v", err)
		}
	}
	one, err := draw(seeded(3))
	other, err2 := draw(iotest.OneByteReader(seeded(3)))
	if err = errors.Join(err, err2); err != nil || !one.Equal(other) {
		s.Errorf("Generate gives different values from the same randomness, or from a reader that gives a byte at a time (%v)", err)
	}
	broken := errors.New("no randomness")
	for _, random := range []io.Reader{iotest.ErrReader(broken), io.MultiReader(io.LimitReader(seeded(4), 5), iotest.ErrReader(broken)), io.LimitReader(seeded(4), 5)} {
		if v, err := draw(random); err == nil || !v.Empty() {
			s.Errorf("Generate from a reader that fails: a value %t, error %v; it should be an error and no value", !v.Empty(), err)
		}
	}
}

func render(s *suite) {
	renderer, _ := s.Kind.(kind.Renderer)
	names := renderer.Names(s.key.Options)
	for i, name := range names {
		if err := key.ValidateEnv(name); err != nil || name == s.key.Env || slices.Contains(names[:i], name) {
			s.Errorf("name %q is no environment name, is the key's own, or is there twice: %v", name, err)
		}
	}
	current, _ := s.key.Current()
	values, err := renderer.Render(s.key.Options, current)
	if err != nil {
		s.Fatalf("Render: %v", err)
	}
	if got, want := slices.Sorted(maps.Keys(values)), slices.Sorted(slices.Values(names)); !slices.Equal(got, want) {
		s.Errorf("Render gives %q, Names %q", got, want)
	}
	for _, v := range wrongValues(current.Value.Reveal()) {
		s.canaries(v)
		_, err := renderer.Render(s.key.Options, key.Version{Number: 1, Value: key.NewValue(v)})
		s.secrets.absent(s, "the error of Render", err)
	}
}
