// SPDX-License-Identifier: Apache-2.0

// Package token is the kind of keys that are random strings: tokens, signing secrets, the master key.
package token

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Kind makes random strings of a format and checks imported ones against a rule.
type Kind struct{}

var (
	_ kind.Kind      = Kind{}
	_ kind.Generator = Kind{}
)

const (
	minLength = 16   // bytes or characters; below 128 bits nothing is a secret
	maxLength = 1024 // bytes or characters
	maxPrefix = 64   // characters
	// attempts bounds drawing again. A candidate of 48 random bytes in base64 is complained of with a probability
	// below 1 in 50, so that 64 attempts fail less than once in 2^360 draws.
	attempts = 64
)

// Name implements kind.Kind.
func (Kind) Name() string { return "token" }

// Summary implements kind.Kind.
func (Kind) Summary() string {
	return "a random string of a given format and length, verified by workloads"
}

// Fields implements kind.Kind.
func (Kind) Fields() []kind.Field {
	return []kind.Field{
		{Name: "format", Default: "base64url", Description: "How random bytes are written: hex, base64 (standard, padded), base64url (unpadded) or alphanumeric."},
		{Name: "length", Default: "32", Description: "Random bytes for hex, base64 and base64url; characters for alphanumeric. 16 to 1024."},
		{Name: "prefix", Default: "", Description: "Put before the random part, such as \"sk_live_\". Visible characters without quotes, at most 64."},
		{Name: "rule", Default: "none", Description: "What a value must satisfy: none, better-auth-secret (32 characters, 128 bits of Shannon entropy, nothing the platform warns about) or encryption-master-key (standard base64 of exactly 32 bytes)."},
	}
}

// Normalize implements kind.Kind.
func (t Kind) Normalize(options kind.Options) (kind.Options, error) {
	full, err := kind.Defaults(t.Fields(), options)
	if err != nil {
		return nil, err
	}
	format, ok := formats[full["format"]]
	if !ok {
		return nil, fmt.Errorf("format %s is not known; use hex, base64, base64url or alphanumeric", kind.Quote(full["format"]))
	}
	length, err := strconv.Atoi(full["length"])
	if err != nil || length < minLength || length > maxLength {
		return nil, fmt.Errorf("length %s is not a number from %d to %d", kind.Quote(full["length"]), minLength, maxLength)
	}
	if err := checkPrefix(full["prefix"]); err != nil {
		return nil, err
	}
	rule, ok := rules[full["rule"]]
	if !ok {
		return nil, fmt.Errorf("rule %s is not known; use none, better-auth-secret or encryption-master-key", kind.Quote(full["rule"]))
	}
	if rule.definition != nil {
		if err := rule.definition(format, length, full["prefix"]); err != nil {
			return nil, err
		}
	}
	return full, nil
}

func checkPrefix(prefix string) error {
	if len(prefix) > maxPrefix {
		return fmt.Errorf("prefix is %d characters long; at most %d are allowed", len(prefix), maxPrefix)
	}
	for _, c := range prefix {
		if c <= ' ' || c > '~' || c == '"' || c == '\'' || c == '\\' {
			return errors.New("prefix holds a space, a quote, a backslash or a character outside ASCII; use letters, digits and other visible characters")
		}
	}
	return nil
}

// Generate implements kind.Generator. A candidate that the platform would refuse or warn about is drawn again.
func (t Kind) Generate(random io.Reader, k key.Key, _ key.Value) (key.Value, error) {
	options, err := t.Normalize(k.Options)
	if err != nil {
		return key.Value{}, err
	}
	length, err := strconv.Atoi(options["length"])
	if err != nil {
		return key.Value{}, err
	}
	for range attempts {
		text, err := formats[options["format"]].draw(random, length)
		if err != nil {
			return key.Value{}, fmt.Errorf("drawing random bytes: %w", err)
		}
		value := key.NewValue(options["prefix"] + text)
		if warnings, err := t.Check(options, value); err == nil && len(warnings) == 0 {
			return value, nil
		}
	}
	return key.Value{}, fmt.Errorf("none of %d candidates satisfied rule %q; format, length or prefix may contradict it", attempts, options["rule"])
}

// Check implements kind.Kind.
func (Kind) Check(options kind.Options, value key.Value) ([]string, error) {
	if value.Empty() {
		return nil, errors.New("value is empty")
	}
	rule, ok := rules[options["rule"]]
	if !ok {
		return nil, fmt.Errorf("rule %q is not known", options["rule"])
	}
	return rule.check(value.Reveal())
}

type format struct {
	name string
	draw func(random io.Reader, length int) (string, error)
}

var formats = map[string]format{
	"hex":          {"hex", encoded(hex.EncodeToString)},
	"base64":       {"base64", encoded(base64.StdEncoding.EncodeToString)},
	"base64url":    {"base64url", encoded(base64.RawURLEncoding.EncodeToString)},
	"alphanumeric": {"alphanumeric", alphanumeric},
}

func encoded(encode func([]byte) string) func(io.Reader, int) (string, error) {
	return func(random io.Reader, length int) (string, error) {
		buffer := make([]byte, length)
		if _, err := io.ReadFull(random, buffer); err != nil {
			return "", err
		}
		return encode(buffer), nil
	}
}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// alphanumeric rejects bytes that would make some characters likelier than others.
func alphanumeric(random io.Reader, length int) (string, error) {
	const limit = 256 - 256%len(letters)
	out := make([]byte, 0, length)
	buffer := make([]byte, length)
	for len(out) < length {
		if _, err := io.ReadFull(random, buffer); err != nil {
			return "", err
		}
		for _, b := range buffer {
			if int(b) < limit && len(out) < length {
				out = append(out, letters[int(b)%len(letters)])
			}
		}
	}
	return string(out), nil
}
