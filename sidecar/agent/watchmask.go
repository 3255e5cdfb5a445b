// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// fileMask hides what files that something else renders hold, in what a reload or a check has said. Their form is not
// known, so that whatever may be a value in one of the usual forms is hidden, names of keys among it.
type fileMask struct {
	paths       []string
	before, now []string // what the files held, and hold
}

// take looks at the files again. It is called before the workload is told of a change.
func (m *fileMask) take() {
	var found []string
	for _, path := range m.paths {
		if data, err := os.ReadFile(path); err == nil { //nolint:gosec // the operator names it; else there is nothing in it to say
			found = append(found, valuesIn(string(data))...)
		}
	}
	if !slices.Equal(found, m.now) {
		m.before, m.now = m.now, found
	}
}

// mask hides the longest first: one may be part of another.
func (m *fileMask) mask(text string) string {
	all := slices.Concat(m.before, m.now)
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) })
	for _, v := range all {
		text = strings.ReplaceAll(text, v, "[redacted]")
	}
	return text
}

// valueLeast is how long a value must be to be hidden: what is shorter stands in any text.
const valueLeast = 4

var (
	quotedValue = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'[^']*'`)
	namedValue  = regexp.MustCompile(`^[^=:]*[=:]\s*(.*)$`)
)

// valuesIn gives what may be a value: lines, what follows a name on its line, and what stands in quotes.
func valuesIn(text string) (found []string) {
	add := func(values ...string) {
		for _, v := range values {
			if v = strings.Trim(v, " \t\r,;"); len(v) >= valueLeast && !slices.Contains(found, v) {
				found = append(found, v)
			}
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		add(line)
		if m := namedValue.FindStringSubmatch(line); m != nil {
			add(m[1])
		}
		for _, quoted := range quotedValue.FindAllString(line, -1) {
			add(quoted[1 : len(quoted)-1])
			if plain, err := strconv.Unquote(quoted); err == nil {
				add(plain)
			}
		}
	}
	return found
}
