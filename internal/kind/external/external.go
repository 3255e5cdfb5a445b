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

const (
	optionPattern   = "pattern"
	optionMultiline = "multiline"
)

// Fields implements kind.Kind.
func (Kind) Fields() []kind.Field {
	return append([]kind.Field{
		{Name: optionPattern, Description: "What the whole value must match, as a regular expression (RE2), such as \"sk_live_[0-9a-zA-Z]{24,}\". Empty: anything."},
		{Name: optionMultiline, Default: "false", Description: "true: values may have several lines, as keys and certificates in PEM have. Every workload of the key must be able to carry them: files of the formats json, bundle and files can, and the environment of hyvve-sidecar exec."},
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
	switch multiline := full[optionMultiline]; {
	case multiline != "true" && multiline != "false":
		return nil, fmt.Errorf("%s %s is neither true nor false", optionMultiline, kind.Quote(multiline))
	case multiline == "true" && full[optionURL] != "":
		return nil, fmt.Errorf("%s is true and %s is set, and no header carries a line break, so that no value could be tried; leave one of them out", optionMultiline, optionURL)
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
	if err := checkLines(options, text); err != nil {
		return nil, err
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
	if strings.TrimSpace(text) != strings.TrimSuffix(text, "\n") {
		warnings = append(warnings, "value begins or ends with white space")
	}
	return warnings, err
}

// checkLines refuses line breaks where the key does not allow for them. A line break at the end of the only line is a slip of
// the writer of the value; that of a PEM belongs to it.
func checkLines(options kind.Options, text string) error {
	switch {
	case strings.ContainsRune(text, 0):
		return errors.New("value holds a NUL byte, which no environment variable or header carries")
	case options[optionMultiline] != "true" && strings.ContainsAny(text, "\r\n"):
		return fmt.Errorf("value holds a line break, which no header and not every file carries; was it read from a file with a trailing newline? For values of several lines, such as a PEM, set %s=true of the key", optionMultiline)
	case strings.ContainsRune(text, '\r'):
		return errors.New("value holds a carriage return, which readers of env files drop; write it with the line breaks of Unix, as in: … | tr -d '\\r' | vault write … value=-")
	case strings.HasSuffix(text, "\n") && !strings.Contains(strings.TrimRight(text, "\n"), "\n"):
		return errors.New("value has one line and a line break at its end, which no header carries; was it read from a file with a trailing newline?")
	}
	return nil
}
