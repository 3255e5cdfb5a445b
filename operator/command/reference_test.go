// SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
)

// page is the reference of the command; what stands between the marks is generated.
const page = "../../docs/hyvve.md"

// printing is what -o json prints: a text with the names of types.
type printing struct {
	text  string
	types []any
}

func one(of any) printing { return printing{"prints %s", []any{of}} }

// printed is what -o json prints, by command.
var printed = map[string]printing{
	"status": {"prints %s; with `--watch`, one in a line for each change", []any{Overview{}}},
	"rotate": {"prints %s with `--plan`, %s with `--no-follow`, and otherwise %s in a line for each change", []any{api.Plan{}, api.RotationSummary{}, api.Rotation{}}},
	"follow": {"prints %s in a line for each change, without instances and waves", []any{api.Rotation{}}},
	"get":    one(api.Rotation{}), "pause": one(api.RotationSummary{}), "resume": one(api.RotationSummary{}), "confirm": one(api.RotationSummary{}),
	"revert": one(api.RotationSummary{}), "compromise": one(api.RotationSummary{}), "tune": one(api.RotationSummary{}),
	"journal": {"prints %s; with `--follow`, %s in a line each", []any{api.Journal{}, api.Entry{}}},
	"receipt": one(api.Receipt{}), "verify": one(api.JournalVerified{}),
}

// described are the types that docs/api.md does not have.
var described = []any{Overview{}, KeyOverview{}, Holding{}, WorkloadOverview{}, ConnectionOverview{}}

// TestReference generates the reference of all commands from the commands, and of what they print from its types.
func TestReference(t *testing.T) {
	old, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- commands -->\n", "<!-- end commands -->\n"
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s lacks %q or %q", page, begin, end)
	}
	var text bytes.Buffer
	for _, cmd := range New().Commands() {
		if cmd.Name() == "help" || cmd.Name() == "version" {
			continue
		}
		describe(t, &text, cmd)
	}
	text.WriteString("\n## What -o json prints\n\nFields stay when a release adds others. Types that are not here are those of [the paths](api.md).\n")
	for _, of := range described {
		fields(&text, reflect.TypeOf(of))
	}
	now := before + begin + text.String() + "\n" + end + after
	if *update {
		if err := os.WriteFile(page, []byte(now), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if now != string(old) {
		t.Errorf("%s is not as the commands are; run: make generate", page)
	}
}

func describe(t *testing.T, text *bytes.Buffer, cmd *cobra.Command) {
	var help bytes.Buffer
	cmd.SetOut(&help)
	if err := cmd.Help(); err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintf(text, "\n### hyvve %s\n\n```text\n%s```\n", cmd.Name(), strings.TrimRight(help.String(), "\n")+"\n")
	of, ok := printed[cmd.Name()]
	if !ok {
		t.Errorf("what hyvve %s -o json prints is not in the list of this test", cmd.Name())
	}
	var links []any
	for _, one := range of.types {
		links = append(links, link(reflect.TypeOf(one)))
	}
	_, _ = fmt.Fprintf(text, "\n`-o json` %s.\n", fmt.Sprintf(of.text, links...))
}

func fields(text *bytes.Buffer, of reflect.Type) {
	_, _ = fmt.Fprintf(text, "\n### %s\n\n| Field | Type | Description |\n|---|---|---|\n", of.Name())
	for _, f := range api.DescribeType(of) {
		_, _ = fmt.Fprintf(text, "| `%s` | %s | %s |\n", f.Name, typeText(f.Type), f.Doc)
	}
}

func typeText(of reflect.Type) string {
	switch {
	case of == reflect.TypeFor[api.Time]():
		return "time"
	case of == reflect.TypeFor[api.Seconds]():
		return "seconds"
	case of.Kind() == reflect.Map:
		return "map of " + typeText(of.Elem())
	case of.Kind() == reflect.Slice:
		return "list of " + typeText(of.Elem())
	case of.Kind() == reflect.Struct:
		return link(of)
	case of.Kind() == reflect.Bool:
		return "true or false"
	case of.Kind() == reflect.String:
		return "text"
	}
	return "number"
}

// link leads to the description of a type.
func link(of reflect.Type) string {
	target := "#"
	if strings.HasSuffix(of.PkgPath(), "internal/api") {
		target = "api.md#"
	}
	return fmt.Sprintf("[%s](%s%s)", of.Name(), target, strings.ToLower(of.Name()))
}
