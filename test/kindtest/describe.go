// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"errors"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing/iotest"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

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
	values, err := renderer.Render(s.key.Options, current.Value)
	if err != nil {
		s.Fatalf("Render: %v", err)
	}
	if got, want := slices.Sorted(maps.Keys(values)), slices.Sorted(slices.Values(names)); !slices.Equal(got, want) {
		s.Errorf("Render gives %q, Names %q", got, want)
	}
	for _, v := range wrongValues(current.Value.Reveal()) {
		s.canaries(v)
		_, err := renderer.Render(s.key.Options, key.NewValue(v))
		s.secrets.absent(s, "the error of Render", err)
	}
}
