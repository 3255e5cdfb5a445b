// SPDX-License-Identifier: Apache-2.0

// Package nearest finds what somebody meant who misspelt a word.
package nearest

import "github.com/agext/levenshtein"

// To returns the option that word was probably meant to be, empty if none is near.
func To(word string, options []string) string {
	best, distance := "", max(2, len(word)/3)+1
	for _, option := range options {
		if d := levenshtein.Distance(word, option, nil); d < distance {
			best, distance = option, d
		}
	}
	return best
}
