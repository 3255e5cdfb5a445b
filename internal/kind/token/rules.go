// SPDX-License-Identifier: Apache-2.0

package token

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// rule is what a value must satisfy. check never puts the value into what it returns.
type rule struct {
	definition func(f format, length int, prefix string) error // what the rule demands of the definition, if anything
	check      func(value string) (warnings []string, err error)
}

var rules = map[string]rule{
	"none":                  {check: anyValue},
	"better-auth-secret":    {check: betterAuthSecret, definition: betterAuthDefinition},
	"encryption-master-key": {check: masterKey, definition: masterKeyDefinition},
}

// anyValue refuses only what no environment variable or header can carry.
func anyValue(value string) ([]string, error) {
	if !utf8.ValidString(value) {
		return nil, errors.New("value is not valid UTF-8")
	}
	if strings.ContainsAny(value, "\x00\r\n") {
		return nil, errors.New("value holds a line break or a NUL byte, which no environment variable or header carries; was it read from a file with a trailing newline? A value of several lines, such as a PEM, needs a key of kind=external with multiline=true")
	}
	if strings.TrimSpace(value) != value {
		return []string{"value begins or ends with white space"}, nil
	}
	return nil, nil
}

// The platform's demands on BETTER_AUTH_SECRET (docs/platform.md).
const (
	betterAuthLength  = 32    // characters
	betterAuthEntropy = 128.0 // bits
	runLength         = 4     // equal or consecutive characters in a row that it warns about
)

var betterAuthWords = []string{"password", "secret", "key", "12345", "abcdef", "qwerty"}

func betterAuthSecret(value string) ([]string, error) {
	warnings, err := anyValue(value)
	if err != nil {
		return nil, err
	}
	if n := utf8.RuneCountInString(value); n < betterAuthLength {
		return nil, fmt.Errorf("value has %d characters; better-auth-secret needs at least %d", n, betterAuthLength)
	}
	if bits := shannonBits(value); bits < betterAuthEntropy {
		return nil, fmt.Errorf("value has %.0f bits of Shannon entropy; better-auth-secret needs at least %.0f", bits, betterAuthEntropy)
	}
	lower := strings.ToLower(value)
	if hasRun(value, 0) {
		warnings = append(warnings, "value has 4 equal characters in a row, which the platform warns about")
	}
	if hasRun(lower, 1) || hasRun(lower, -1) {
		warnings = append(warnings, "value has a run such as 1234 or abcd, which the platform warns about")
	}
	for _, word := range betterAuthWords {
		if strings.Contains(lower, word) {
			warnings = append(warnings, "value contains a common word (password, secret, key, 12345, abcdef, qwerty), which the platform warns about")
			break
		}
	}
	return warnings, nil
}

func betterAuthDefinition(f format, length int, prefix string) error {
	if f.name == "alphanumeric" && length+len(prefix) < betterAuthLength {
		return fmt.Errorf("length %d: better-auth-secret needs at least %d characters", length, betterAuthLength)
	}
	if length < 32 {
		return fmt.Errorf("length %d is too short for 128 bits of Shannon entropy; use 32 or more (48 with format=base64 is the platform's way)", length)
	}
	return nil
}

// shannonBits is the entropy of the value's own character frequencies, in bits, times its length in characters.
func shannonBits(value string) float64 {
	counts := map[rune]int{}
	total := 0
	for _, c := range value {
		counts[c]++
		total++
	}
	bits := 0.0
	for _, n := range counts {
		p := float64(n) / float64(total)
		bits -= p * math.Log2(p)
	}
	return bits * float64(total)
}

// hasRun finds runLength characters each step above the one before, within digits or within letters.
func hasRun(value string, step int) bool {
	run, last := 1, rune(-1)
	for _, c := range value {
		if last >= 0 && c == last+rune(step) && (step == 0 || sameClass(c, last)) { //nolint:gosec // a step of -1, 0 or 1
			run++
		} else {
			run = 1
		}
		if run >= runLength {
			return true
		}
		last = c
	}
	return false
}

func sameClass(a, b rune) bool {
	digit := func(c rune) bool { return c >= '0' && c <= '9' }
	letter := func(c rune) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	return digit(a) && digit(b) || letter(a) && letter(b)
}

const masterKeyBytes = 32

func masterKey(value string) ([]string, error) {
	_, err := key.MasterKey(key.NewValue(value))
	return nil, err
}

func masterKeyDefinition(f format, length int, prefix string) error {
	if f.name != "base64" || length != masterKeyBytes || prefix != "" {
		return fmt.Errorf("rule encryption-master-key needs format=base64, length=%d and no prefix", masterKeyBytes)
	}
	return nil
}
