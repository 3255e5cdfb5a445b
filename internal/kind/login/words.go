// SPDX-License-Identifier: Apache-2.0

package login

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

const (
	// FewSessions is how many sessions are named that use a version.
	FewSessions = 3
	// MostWord is how many bytes are quoted of what a client says of itself.
	MostWord = 100
)

// Few returns the first of many texts, and how many more there are.
func Few(all []string, most int) []string {
	if len(all) > most {
		return append(slices.Clone(all[:most]), fmt.Sprintf("and %d more", len(all)-most))
	}
	return all
}

// Live reports whether a version of that number may be in use as far as Vault knows.
func Live(c kind.Change, number int) bool {
	if number == c.To.Number || number == c.From.Number {
		return true
	}
	v, ok := c.Key.Version(number)
	return ok && v.State.Live()
}

// Keep writes what Finding.Kept holds.
func Keep(memory any) string {
	data, err := json.Marshal(memory)
	if err != nil { // texts can be written
		return ""
	}
	return string(data)
}
