// SPDX-License-Identifier: Apache-2.0

// Package external is the kind of keys whose values are made elsewhere: a payment provider's, a mail service's. An operator
// brings each value; it is checked against a pattern, and tried by a request where there is a URL that tells good from bad.
package external

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Kind checks and tries values. It makes none: it is no Generator.
type Kind struct{}

var (
	_ kind.Kind     = Kind{}
	_ kind.Verifier = Kind{}
)

// Name implements kind.Kind.
func (Kind) Name() string { return "external" }

// Summary implements kind.Kind.
func (Kind) Summary() string {
	return "a value that an operator or another system brings, checked against a pattern and tried at a URL"
}

const optionPattern = "pattern"

// Fields implements kind.Kind.
func (Kind) Fields() []kind.Field {
	return append([]kind.Field{
		{Name: optionPattern, Description: "What the whole value must match, as a regular expression (RE2), such as \"sk_live_[0-9a-zA-Z]{24,}\". Empty: anything."},
	}, verifyFields...)
}

// Normalize implements kind.Kind.
func (k Kind) Normalize(options kind.Options) (kind.Options, error) {
	full, err := kind.Defaults(k.Fields(), options)
	if err != nil {
		return nil, err
	}
	if _, err := whole(full[optionPattern]); err != nil {
		return nil, err
	}
	full[optionMethod] = strings.ToUpper(full[optionMethod])
	_, err = readProbe(full)
	return full, err
}

// whole compiles a pattern that matches from the beginning of a value to its end; nil where there is none.
func whole(pattern string) (*regexp.Regexp, error) {
	if pattern == "" {
		return nil, nil
	}
	if _, err := regexp.Compile(pattern); err != nil { // by itself: a stray parenthesis must not pair with ours
		return nil, fmt.Errorf("%s: %w; write it in the syntax of RE2 (github.com/google/re2/wiki/Syntax)", optionPattern, err)
	}
	form, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("%s is too long to match a whole value: %w", optionPattern, err)
	}
	return form, nil
}

// Check implements kind.Kind.
func (Kind) Check(options kind.Options, value key.Value) ([]string, error) {
	if value.Empty() {
		return nil, errors.New("value is empty")
	}
	text := value.Reveal()
	if !utf8.ValidString(text) {
		return nil, errors.New("value is not valid UTF-8")
	}
	if strings.ContainsAny(text, "\x00\r\n") {
		return nil, errors.New("value holds a line break or a NUL byte, which no environment variable or header carries; was it read from a file with a trailing newline?")
	}
	form, err := whole(options[optionPattern])
	if err != nil {
		return nil, err
	}
	if form != nil && !form.MatchString(text) {
		return nil, fmt.Errorf("value does not match the key's pattern %q; the whole value has to", options[optionPattern])
	}
	p, err := readProbe(options)
	if err != nil {
		return nil, err
	}
	warnings, err := p.check(text)
	if strings.TrimSpace(text) != text {
		warnings = append(warnings, "value begins or ends with white space")
	}
	return warnings, err
}
