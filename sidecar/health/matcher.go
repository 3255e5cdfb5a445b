// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Matcher compares one label, as a matcher of PromQL does: a label that is not there is empty, and a regular expression
// must match all of the value.
type Matcher struct {
	Label   string
	op      string // one of operators, or "="
	value   string
	pattern *regexp.Regexp // of =~ and !~
}

// operators stand before a value that is not compared for equality.
var operators = []string{"=~", "!~", "!="}

var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// ParseMatchers reads matchers by label: "401" is that value, "=~4.." all that match, "!=200" any other, and "!~2.." all
// that do not match.
func ParseMatchers(labels map[string]string) ([]Matcher, error) {
	var all []Matcher
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		m := Matcher{Label: label, op: "=", value: labels[label]}
		for _, op := range operators {
			if rest, ok := strings.CutPrefix(m.value, op); ok {
				m.op, m.value = op, strings.TrimSpace(rest)
				break
			}
		}
		if !labelName.MatchString(label) {
			return nil, fmt.Errorf("labels: %q is not the name of a label", label)
		}
		if strings.HasSuffix(m.op, "~") {
			pattern, err := regexp.Compile("^(?s:" + m.value + ")$")
			if err != nil {
				return nil, fmt.Errorf("labels: %s: %w; write a regular expression such as \"=~4..\"", label, err)
			}
			m.pattern = pattern
		}
		all = append(all, m)
	}
	return all, nil
}

// String writes it as PromQL does.
func (m Matcher) String() string { return fmt.Sprintf("%s%s%q", m.Label, m.op, m.value) }

func (m Matcher) matches(value string) bool {
	switch m.op {
	case "=~":
		return m.pattern.MatchString(value)
	case "!~":
		return !m.pattern.MatchString(value)
	case "!=":
		return value != m.value
	}
	return value == m.value
}
