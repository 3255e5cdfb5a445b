// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/variables"
)

// plain needs no quotes in any reader of dotenv files.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]*$`)

// dotenv writes NAME=value lines. A value that readers would not all read back the same is refused by name. A value of several
// lines is, too, where it is not said that the reader is of today: npm's dotenv before release 15 takes its first line alone.
func dotenv(set variables.Set, multiline bool) ([]byte, error) {
	return lines(set, multiline, func(value string) (quoted, why string) {
		switch {
		case plain.MatchString(value):
			return value, ""
		case strings.Contains(value, "${"):
			return "", "${, which Python's reader replaces even in quotes"
		case strings.Contains(value, `\\`) || strings.HasSuffix(value, `\`):
			return "", `\\, or \ at its end, which Node's and Python's readers take for an escape`
		case !strings.Contains(value, "'"):
			return "'" + value + "'", ""
		case !strings.ContainsAny(value, "\"$`\\!"):
			return `"` + value + `"`, ""
		}
		return "", "both kinds of quotes, or a single quote with $, `, ! or \\"
	})
}

// maxLine is the longest line that docker reads, and the line break.
const maxLine = 64 << 10

// docker writes what "docker run --env-file" reads. It knows no quotes: what they would stand for is a part of the value.
func docker(set variables.Set) ([]byte, error) {
	return lines(set, false, func(value string) (quoted, why string) {
		if len(value) > maxLine-256 { // for the name
			return "", "more than docker reads from one line"
		}
		return value, ""
	})
}

// lines writes NAME=value with values as quote returns them, or says why one cannot be written.
func lines(set variables.Set, multiline bool, quote func(value string) (quoted, why string)) ([]byte, error) {
	values, err := set.Text()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, env := range slices.Sorted(maps.Keys(values)) {
		value, why := "", ""
		switch {
		case strings.ContainsAny(values[env], "\r\x00") || !multiline && strings.Contains(values[env], "\n"):
			why = "a line break or NUL"
		case !utf8.ValidString(values[env]):
			why = "bytes that are not UTF-8"
		default:
			value, why = quote(values[env])
		}
		if why != "" {
			return nil, fmt.Errorf("%s holds %s: not every reader of the file would read it back; render it as json or files", env, why)
		}
		fmt.Fprintf(&out, "%s=%s\n", env, value)
	}
	return out.Bytes(), nil
}
