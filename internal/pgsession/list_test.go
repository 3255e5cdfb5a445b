// SPDX-License-Identifier: Apache-2.0

package pgsession

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestParseList(t *testing.T) {
	for _, tt := range []struct {
		setting, value string
		want           []string // nil: refused
	}{
		{"search_path", `"$user", public`, []string{"$user", "public"}},
		{"search_path", "  PUBLIC ,\t\"Odd, \"\"name\"\"\"\n", []string{"public", `Odd, "name"`}},
		{"search_path", `""`, []string{""}},
		{"search_path", "", []string{}},
		{"SEARCH_PATH", "public;CREATE/**/ROLE/**/evil", []string{"public;create/**/role/**/evil"}},
		{"search_path", "public; CREATE ROLE evil", nil},
		{"search_path", "a,,b", nil},
		{"search_path", "a,", nil},
		{"search_path", `"a`, nil},
		{"search_path", `"a"b`, nil},
		{"search_path", `a"b`, []string{`a"b`}},
		{"search_path", "schön", []string{"schön"}},
		{"search_path", "Älter", nil},
		{"search_path", `"Älter"`, []string{"Älter"}},
		{"search_path", "a\vb", nil},
		{"temp_tablespaces", "Fast, slow", []string{"fast", "slow"}},
		{"session_preload_libraries", "$libdir/My lib , x", []string{"$libdir/My lib", "x"}},
		{"session_preload_libraries", " , x", nil},
	} {
		got, err := ParseList(tt.setting, tt.value)
		if (err != nil) != (tt.want == nil) || !slices.Equal(got, tt.want) {
			t.Errorf("%s = %s: %q, %v, want %q", tt.setting, tt.value, got, err, tt.want)
		}
	}
	if _, err := ParseList("work_mem", "1"); err == nil || ListSetting("work_mem") || !ListSetting("Search_Path") {
		t.Error("work_mem is taken for a list, or search_path is not")
	}
}

// stored is a list as the server stores it after SET … TO: each name quoted unless it needs no quotes.
func stored(names []string) string {
	plain := regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)
	quoted := make([]string, 0, len(names))
	for _, name := range names {
		if !plain.MatchString(name) {
			name = `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
		}
		quoted = append(quoted, name)
	}
	return strings.Join(quoted, ", ")
}

// constants reads string constants with commas between, as the server's lexer does whatever standard_conforming_strings
// says. It reports false where there is anything else.
func constants(text string) (names []string, ok bool) {
	for {
		rest, found := strings.CutPrefix(text, "E'")
		if !found {
			return nil, false
		}
		var b strings.Builder
		for {
			switch {
			case rest == "":
				return nil, false
			case strings.HasPrefix(rest, `\\`), strings.HasPrefix(rest, "''"):
				b.WriteByte(rest[0])
				rest = rest[2:]
				continue
			case rest[0] == '\\':
				return nil, false
			case rest[0] != '\'':
				b.WriteByte(rest[0])
				rest = rest[1:]
				continue
			}
			break
		}
		names = append(names, b.String())
		if rest == "'" {
			return names, true
		}
		if text, found = strings.CutPrefix(rest, "', "); !found {
			return nil, false
		}
	}
}

// Whatever a server says is the value of a setting: what goes into a statement is constants and nothing else, and the server
// makes the same list of them.
func FuzzSettings(f *testing.F) {
	for _, value := range []string{`"$user", public`, "public;CREATE/**/ROLE/**/evil;--", `a', E'b`, `\', "x\"`, `""`, "", "$libdir/a b,c", "\xff,\xc3"} {
		f.Add("search_path", value)
		f.Add("session_preload_libraries", value)
		f.Add("app.tenant", value)
	}
	f.Fuzz(func(t *testing.T, setting, value string) {
		if !ListSetting(setting) {
			if got, ok := constants(Literal(value)); !ok || len(got) != 1 || got[0] != strings.ReplaceAll(value, "\x00", "") {
				t.Fatalf("%q becomes %s", value, Literal(value))
			}
			return
		}
		names, err := ParseList(setting, value)
		if err != nil {
			return
		}
		got, ok := constants(FormatList(names))
		if len(names) == 0 {
			names = []string{""}
		}
		if !ok || !slices.Equal(got, names) {
			t.Fatalf("%q is %q and becomes %s", value, names, FormatList(names))
		}
		again, err := ParseList(setting, stored(names))
		if err != nil || !slices.Equal(again, names) {
			t.Fatalf("%q is stored as %s, which is %q, %v", value, stored(names), again, err)
		}
	})
}
