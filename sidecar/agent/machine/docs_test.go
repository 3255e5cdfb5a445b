// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables and the drawings of docs/agent.md")

// docs/agent.md has the regions, their transitions and the rules, and draws them.
func TestDocsDrawTheTable(t *testing.T) {
	const path = "../../../docs/agent.md"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := string(data)
	for mark, text := range map[string]string{"regions": docsRegions(), "rules": docsRules()} {
		begin, end := "<!-- "+mark+" -->\n", "<!-- end of "+mark+" -->\n"
		before, rest, ok := strings.Cut(want, begin)
		_, after, has := strings.Cut(rest, end)
		if !ok || !has {
			t.Fatalf("%s lacks %q or %q", path, begin, end)
		}
		want = before + begin + "\n" + text + end + after
	}
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if want != string(data) {
		t.Errorf("%s does not show the table; write it with: go test ./sidecar/agent/machine -run TestDocsDrawTheTable -update", path)
	}
}

func docsRegions() string {
	var text strings.Builder
	for _, r := range regions {
		d := r.(describer).describe()
		fmt.Fprintf(&text, "### %s\n\n%s.\nStates: %s.\n\n", d.name, strings.ToUpper(d.about[:1])+d.about[1:], strings.Join(d.states, ", "))
		text.WriteString("| State | Event | Condition | Next | Also |\n|---|---|---|---|---|\n")
		for _, row := range d.rows {
			from, to := strings.Join(row.from, ", "), row.to
			if from == "" {
				from = "any"
			}
			if to == "" {
				to = "—"
			}
			fmt.Fprintf(&text, "| %s | %s | %s | %s | %s |\n", from, kindsOf(row), row.when, to, strings.Join(row.do, "; "))
		}
		text.WriteString("\n")
		if len(d.states) > 2 {
			text.WriteString(drawing(d) + "\n")
		}
	}
	return text.String()
}

func kindsOf(row described) string {
	names := make([]string, 0, len(row.on))
	for _, kind := range row.on {
		names = append(names, string(kind))
	}
	return strings.Join(names, ", ")
}

// drawing draws the transitions of a region that lead to another state.
func drawing(d description) string {
	var text strings.Builder
	text.WriteString("```mermaid\nstateDiagram-v2\n")
	for _, row := range d.rows {
		if row.to == "" {
			continue
		}
		from := row.from
		if len(from) == 0 {
			from = []string{"any"}
		}
		for _, state := range from {
			if state != row.to {
				fmt.Fprintf(&text, "    %s --> %s: %s\n", state, row.to, kindsOf(row))
			}
		}
	}
	text.WriteString("```\n")
	return text.String()
}

func docsRules() string {
	var text strings.Builder
	text.WriteString("| | Condition | Effects |\n|---|---|---|\n")
	for n, r := range rules {
		var names []string
		for _, one := range r.do(State{}) {
			names = append(names, string(one))
		}
		fmt.Fprintf(&text, "| %d | %s | %s |\n", n+1, r.name, strings.Join(names, ", "))
	}
	return text.String()
}
