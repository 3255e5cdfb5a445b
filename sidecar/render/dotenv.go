// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/variables"
)

// plain needs no quotes in any reader of dotenv files.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]*$`)

// dotenv writes NAME=value lines. A value that readers would not all read back the same is refused by name.
func dotenv(set variables.Set) ([]byte, error) {
	values, err := set.Text()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, env := range slices.Sorted(maps.Keys(values)) {
		value := values[env]
		why := ""
		switch {
		case strings.ContainsAny(value, "\r\n\x00"):
			why = "a line break or NUL"
		case plain.MatchString(value):
		case strings.Contains(value, "${"):
			why = "${, which Python's reader replaces even in quotes"
		case strings.Contains(value, `\\`) || strings.HasSuffix(value, `\`):
			why = `\\, or \ at its end, which Node's and Python's readers take for an escape`
		case !strings.Contains(value, "'"):
			value = "'" + value + "'"
		case !strings.ContainsAny(value, "\"$`\\!"):
			value = `"` + value + `"`
		default:
			why = "both kinds of quotes, or a single quote with $, `, ! or \\"
		}
		if why != "" {
			return nil, fmt.Errorf("%s holds %s: not every reader of dotenv files would read it back; render it as json or files", env, why)
		}
		fmt.Fprintf(&out, "%s=%s\n", env, value)
	}
	return out.Bytes(), nil
}
