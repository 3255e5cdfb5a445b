// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// The two logins of a key differ in their suffix alone.
var suffixes = [2]string{"_a", "_b"}

// SuffixLength is how many bytes a suffix of LoginNames has.
const SuffixLength = len("_a")

// LoginNames returns the names of the two logins of a key at a server, of at most limit bytes each. With the option
// username they are that name with _a and _b. Otherwise they begin with the key's name, with '_' for '-' and '.', and
// contain the mount's id. A hash of the key's name follows where the readable part alone could be another key's: it has
// been cut, or the key's name holds a '.' or '_'.
func LoginNames(k key.Key, limit int) [2]string {
	base := k.Options[OptionUsername]
	if base == "" {
		base = loginBase(k, limit-SuffixLength)
	}
	return [2]string{base + suffixes[0], base + suffixes[1]}
}

func loginBase(k key.Key, limit int) string {
	readable, tail := strings.NewReplacer("-", "_", ".", "_").Replace(k.Name), ""
	if k.Mount != "" {
		tail = "_" + k.Mount
	}
	if strings.ContainsAny(k.Name, "._") || len(readable)+len(tail) > limit {
		tail += "_" + key.ShortHash(k.Name)
	}
	return readable[:max(0, min(len(readable), limit-len(tail)))] + tail
}
