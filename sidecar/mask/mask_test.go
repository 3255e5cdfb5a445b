// SPDX-License-Identifier: Apache-2.0

package mask

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// awkward are values with all that some renderer escapes.
var awkward = []string{
	`abc"def\ghi/jkl+mno pqr&stu`, "S3cr3tV4lue-One", `it's <b>100%</b> $HOME !x ${y} \\ back` + "`tick`",
	"größe-€-😀-\x7f-ende", "-----BEGIN KEY-----\nMIIabc/def+ghi==\n-----END KEY-----\n", "tab\there", "%41%zz+&amp;=",
}

func ascii(v string) string { return strings.Trim(strconv.QuoteToASCII(v), `"`) }

func plainJSON(v any) string {
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
	return strings.TrimSpace(out.String())
}

func asJSON(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// pythonJSON escapes all that is not ASCII, as Python's json does.
func pythonJSON(v string) string {
	var out strings.Builder
	for _, r := range plainJSON(v) {
		switch {
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		case r > 0x7e:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}

func percentAll(v string) string {
	var out strings.Builder
	for n := range len(v) {
		fmt.Fprintf(&out, "%%%02x", v[n])
	}
	return out.String()
}

var written = map[string]func(string) string{
	"raw":             func(v string) string { return v },
	"JSON":            func(v string) string { return asJSON(v) },
	"JSON, plain":     func(v string) string { return plainJSON(v) },
	"JSON, PHP":       func(v string) string { return strings.ReplaceAll(asJSON(v), "/", `\/`) },
	"JSON, Python":    pythonJSON,
	"JSON in JSON":    func(v string) string { return asJSON(map[string]string{"error": asJSON([]string{v})}) },
	"JSON in Go":      func(v string) string { return strconv.Quote(plainJSON(v)) },
	"Go":              strconv.Quote,
	"Go, ASCII":       strconv.QuoteToASCII,
	"Python":          func(v string) string { return "'" + strings.ReplaceAll(ascii(v), `'`, `\'`) + "'" },
	"Rust":            func(v string) string { return strings.ReplaceAll(strconv.Quote(v), `\x7f`, `\u{7f}`) },
	"shell":           func(v string) string { return "'" + strings.ReplaceAll(v, "'", `'\''`) + "'" },
	"shell, Python":   func(v string) string { return "'" + strings.ReplaceAll(v, "'", `'"'"'`) + "'" },
	"dotenv":          func(v string) string { return `"` + v + `"` },
	"URL, query":      url.QueryEscape,
	"URL, path":       url.PathEscape,
	"URL, all":        percentAll,
	"URL, twice":      func(v string) string { return url.QueryEscape(url.PathEscape(v)) },
	"HTML":            html.EscapeString,
	"base64":          func(v string) string { return base64.StdEncoding.EncodeToString([]byte(v)) },
	"base64, raw":     func(v string) string { return base64.RawStdEncoding.EncodeToString([]byte(v)) },
	"base64 for URLs": func(v string) string { return base64.URLEncoding.EncodeToString([]byte(v)) },
	"base64, raw URL": func(v string) string { return base64.RawURLEncoding.EncodeToString([]byte(v)) },
	"hexadecimal":     func(v string) string { return hex.EncodeToString([]byte(v)) },
}

// However a value is written, all of it is hidden, and nothing of what stands beside it.
func TestForms(t *testing.T) {
	for _, value := range awkward {
		m := New("another-value", value)
		for name, write := range written {
			text := strings.Trim(write(value), `"'`)
			if name == "JSON in JSON" || name == "JSON in Go" {
				text = write(value)
			}
			got := m.Text("before " + text + " after")
			middle := strings.TrimSuffix(strings.TrimPrefix(got, "before "), " after")
			if strings.Count(got, Redacted) != 1 || len(strings.Trim(strings.ReplaceAll(middle, Redacted, ""), `\"{}[]:nr`)) > len("error") {
				t.Errorf("%s of %q: %s\nmasked %s", name, value, text, got)
			}
		}
	}
}

// A value in the midst of what is encoded as a whole is hidden but for a character at either edge.
func TestWithin(t *testing.T) {
	value := awkward[0]
	for before := range 7 {
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", before) + value + "yz"))
		if got := New(value).Text(text); !strings.Contains(got, Redacted) || len(got) > len(Redacted)+before*2+8 {
			t.Errorf("%d before it: %s", before, got)
		}
	}
	whole := `{"A":` + asJSON(value) + `}`
	if got := New(value).Text(base64.StdEncoding.EncodeToString([]byte(whole))); !strings.Contains(got, Redacted) {
		t.Error(got)
	}
}

func TestPasswords(t *testing.T) {
	for value, parts := range map[string][]string{
		"postgresql://app:S3cret%2FPw@db/x?sslmode=verify-full": {"S3cret%2FPw", "S3cret/Pw", "S3cret%2fPw"},
		"redis://:p@ss+word@cache:6379/0":                       {"p@ss+word", "p%40ss%2Bword", "p%40ss+word"},
		`host=db user=app password='it\'s me' dbname=x`:         {`it\'s me`, `it's me`},
		"jdbc:postgresql://db/x?user=app&password=S3cret%21":    {"S3cret%21", "S3cret!"},
		"mysql://root:app@db":                                   nil, // too short
	} {
		m := New(value)
		for _, part := range parts {
			if got := m.Text("it refused " + part + "."); got != "it refused [redacted]." {
				t.Errorf("%s: %s", part, got)
			}
		}
		if got := m.Text("user app on db"); got != "user app on db" {
			t.Errorf("%s: %s", value, got)
		}
	}
}

// Values that overlap leave no part of either.
func TestOverlap(t *testing.T) {
	for text, want := range map[string]string{
		"abcdefghijkl": Redacted,
		"-abcdef-":     "-" + Redacted + "-",
		"abcdefabcdef": Redacted + Redacted,
		"":             "",
	} {
		if got := New("abcdef", "cdefghijkl", "cdefghij", "").Text(text); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
	if got := (Mask{}).Text("as it is"); got != "as it is" {
		t.Error(got)
	}
}

// Of a short value nothing is hidden but the value.
func TestShort(t *testing.T) {
	m := New("ab", "1\n2", "on")
	if got := m.Text("6162 YWI= 1 and 2; none"); got != "6162 YWI= 1 and 2; n"+Redacted+"e" {
		t.Error(got)
	}
}

func FuzzText(f *testing.F) {
	for _, v := range awkward {
		f.Add(v, asJSON(v))
	}
	f.Add("value", `\ud83d\u`)
	f.Add(`00&#00";`, "")
	f.Fuzz(func(t *testing.T, value, text string) {
		m := New(value)
		if _, work := m.text(text); work > mostWork*(len(text)+1) {
			t.Errorf("%q: %d steps for %d bytes", text, work, len(text))
		}
		if got := m.Text("<" + value + ">"); value != "" && strings.TrimSpace(value) == value && strings.Contains(got, value) && !strings.Contains(Redacted, value) && value != "<" && value != ">" {
			t.Errorf("%q: %q", value, got)
		}
		plain, changed := streamOf(value, new(int)), true
		for range maxLayers / 2 {
			plain, changed = plain.unescape()
		}
		if !utf8.ValidString(value) || len(plain.text) < Least || changed { // as "%%%%33333", whose percent signs count one after the other
			return
		}
		for name, write := range written {
			if got := m.Text("<" + write(value) + ">"); !strings.Contains(got, Redacted) {
				t.Errorf("%s of %q: %q", name, value, got)
			}
		}
	})
}

// mostWork is how many steps each byte of a text may take.
const mostWork = 200

// However awkward a text is, the work grows with its length only, and not with the number of secrets.
func TestWorkIsLinear(t *testing.T) {
	sizes := []int{1 << 10, 16 << 10, 64 << 10}
	secrets := map[string][]string{"plain": nil, "backslashes": {`\\abc`, `\\\\\\\\\\\\`, `\\n\\n`}, "same": {"aaaa", strings.Repeat("a", 3000) + "b"}, "many": nil}
	for n := range 20 {
		secrets["plain"] = append(secrets["plain"], fmt.Sprintf("plain-value-%d", n))
	}
	for n := range 40_000 {
		secrets["many"] = append(secrets["many"], fmt.Sprintf("name: value-%d", n))
	}
	nested := `\secret"`
	for range 9 {
		nested = asJSON(nested)
	}
	for kind, values := range secrets {
		m := New(values...)
		for name, part := range map[string]string{
			"backslashes": `\`, "ampersands": "&", "entities": "&amp;", "amp": "amp;", "percents": "%", "nested percents": "%25", "quotes": `'"`, "letters": "a",
			"nested JSON": nested, "bytes": `\xe2`, "runs and bytes": `\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\xe2`, "surrogates": `\ud83d`, "base64": "YWFh", "prefixes": "name: value-1",
			"prose": "The server could not load C:\\file: \"name: value-17\" is unknown. ", "opening": "-\\u{", "not UTF-8": "\xe2\x82",
		} {
			for _, size := range sizes {
				text := strings.Repeat(part, size/len(part)+1)
				if _, work := m.text(text); work > mostWork*len(text) {
					t.Errorf("%s in a text of %d bytes of %s: %d steps for each byte", kind, len(text), name, work/len(text))
				}
			}
		}
	}
}

// What would take too long is not shown.
func TestTooMuch(t *testing.T) {
	if got := New("value").Text(strings.Repeat("a", maxText+1)); got != Withheld {
		t.Errorf("%.40s", got)
	}
	m := New(strings.Repeat("a", maxSecrets+1))
	if got := m.Text("some text"); got != Withheld {
		t.Errorf("%.40s", got)
	}
	if got := m.Text(""); got != "" {
		t.Errorf("%.40s", got)
	}
}

func BenchmarkText(b *testing.B) {
	m := New(awkward...)
	text := strings.Repeat("The server could not load C:\\file: \"name: value-17\" is unknown. ", 1<<10)
	for b.Loop() {
		m.Text(text)
	}
}

// Base64 and hexadecimal in lines, also where their ends are escaped, show no part of a value.
func TestLines(t *testing.T) {
	value := strings.Repeat("a long value to be wrapped; ", 12) + "end"
	wrap := func(text string, columns int, end string) string {
		var out strings.Builder
		for ; len(text) > columns; text = text[columns:] {
			out.WriteString(text[:columns] + end)
		}
		return out.String() + text
	}
	for end, escape := range map[string]func(string) string{
		"\n": written["raw"], "\r\n": written["raw"], "\n    ": written["raw"], "\n\n": written["JSON"], "\r\n ": written["JSON"],
		"\n ": written["JSON in JSON"], "\n\t": written["URL, all"], "\r\n\t": written["Go"], "\r": written["HTML"],
	} {
		for _, name := range []string{"base64", "base64, raw URL", "hexadecimal"} {
			text := escape("before: " + wrap(written[name](value), 76, end) + " :after")
			got := New(value).Text(text)
			if left := strings.Replace(got, Redacted, "secret", 1); len(left) > len(escape("before: secret :after")) || got == text {
				t.Errorf("%s with %q: %s", name, end, got)
			}
		}
	}
}

// A value that was written twice, each time in another way, is hidden.
func TestMixtures(t *testing.T) {
	for _, value := range awkward {
		m := New(value)
		for inner, write := range written {
			for outer, again := range written {
				if strings.HasPrefix(inner, "base64") || inner == "hexadecimal" {
					continue
				}
				if text := again("before " + write(value) + " after"); !strings.Contains(m.Text(text), Redacted) {
					t.Errorf("%s in %s of %q: %s", inner, outer, value, text)
				}
			}
		}
	}
}
