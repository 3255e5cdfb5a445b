// SPDX-License-Identifier: Apache-2.0

// Package untrusted bounds what others say and have us store: instances in their reports, servers and kinds in their answers.
package untrusted

import (
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Bounds of what kinds say of servers, which may be hostile, and choose the words.
const (
	MaxServerText = 4 << 10  // bytes of a text
	MaxTexts      = 100      // of a call
	maxKept       = 64 << 10 // bytes of kind.Finding.Kept: it is stored with the key, in a record that has to fit Vault's storage
)

// Text bounds a text of a kind, and puts it on one line.
func Text(text string) string { return kind.Line(text, MaxServerText) }

// Texts bounds texts of a kind.
func Texts(texts []string) []string {
	var all []string
	for _, text := range texts[:min(len(texts), MaxTexts)] {
		all = append(all, Text(text))
	}
	if more := len(texts) - MaxTexts; more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return all
}

// saidError is an error of a kind in bounds.
type saidError struct {
	text string
	err  error
}

func (s saidError) Error() string { return s.text }

func (s saidError) Unwrap() error { return s.err }

// Err bounds the text of an error of a kind.
func Err(err error) error {
	if err == nil || Text(err.Error()) == err.Error() {
		return err
	}
	return saidError{Text(err.Error()), err}
}

// MaxReason bounds what an instance may have us store, in bytes.
const MaxReason = 1024

// Reason bounds what an instance says in words, and makes it harmless on a terminal.
func Reason(text string) string { return kind.Line(text, MaxReason) }
