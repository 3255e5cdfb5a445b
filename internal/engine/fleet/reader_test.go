// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"slices"
	"strings"
	"testing"
)

// What a reader says of itself is stored with each instance, so that it is limited in number and length.
func TestReadersSayNoMoreThanIsStored(t *testing.T) {
	long := strings.Repeat("X", maxEnv)
	if err := (Reader{Instance: "api-1", OneLine: slices.Repeat([]string{long}, maxOneLine)}).Check(); err != nil {
		t.Error(err)
	}
	for want, r := range map[string]Reader{
		"one_line: a name has 257 bytes": {OneLine: []string{long + "X"}},
		"one_line names 201 keys":        {OneLine: slices.Repeat([]string{"X"}, maxOneLine+1)},
		"one_line: env \"a b\" is not":   {OneLine: []string{"a b"}},
		"pod: ":                          {Pod: strings.Repeat("p", 300)},
		"node: ":                         {Node: "a\nb"},
		"instance \"a/b\" is not allowed; use letter": {Instance: "a/b"},
	} {
		if err := r.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}
