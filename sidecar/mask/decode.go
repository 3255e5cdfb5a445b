// SPDX-License-Identifier: Apache-2.0

package mask

import (
	"bytes"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// stream is a text that was decoded, with the place of each byte in the text as it was.
type stream struct {
	text []byte
	at   []span
	work *int // counts steps
}

func newStream(size int, work *int) stream {
	return stream{make([]byte, 0, size), make([]span, 0, size), work}
}

func streamOf(text string, work *int) stream {
	s := newStream(len(text), work)
	for n := range int32(len(text)) { //nolint:gosec // of limited size
		s.put(span{n, n + 1}, text[n])
	}
	return s
}

// put appends bytes that stand somewhere in the text as it was.
func (s *stream) put(at span, text ...byte) {
	for _, b := range text {
		s.text, s.at = append(s.text, b), append(s.at, at)
	}
}

// maxLayers is how often a text may have been escaped. Any number of backslashes in a row counts as one layer.
const maxLayers = 8

// plain returns a text without its escapes, and without those that were escaped.
func (s stream) plain() stream {
	changed := true
	for layer := 0; layer < maxLayers && changed; layer++ {
		s, changed = s.unescape()
	}
	return s
}

// unescape removes one layer of escapes. What depends on how often something is escaped, and by what, is dropped: quotes, and
// backslashes that stand for nothing.
func (s stream) unescape() (out stream, changed bool) {
	out = newStream(len(s.text), s.work)
	for at := 0; at < len(s.text); {
		*s.work++
		text, end := s.character(at)
		changed = changed || !bytes.Equal(text, s.text[at:end])
		out.put(span{s.at[at].begin, s.at[end-1].end}, text...)
		at = end
	}
	return out, changed
}

// canonical returns the text in which a plus is what it is in the query of a URL.
func (s stream) canonical() []byte { return bytes.ReplaceAll(s.text, []byte("+"), []byte(" ")) }

// escaped returns the usual forms of a secret that is too short without its escapes.
func escaped(secret string) []string {
	forms := []string{url.QueryEscape(secret), url.PathEscape(secret), html.EscapeString(secret)}
	for _, quoted := range []string{strconv.Quote(secret), strconv.QuoteToASCII(secret)} {
		forms = append(forms, quoted[1:len(quoted)-1])
	}
	if text, err := json.Marshal(secret); err == nil {
		forms = append(forms, string(text[1:len(text)-1]))
	}
	return forms
}

// entity is a character of HTML or XML.
var entity = regexp.MustCompile(`^&#?[0-9A-Za-z]{1,8};`)

// character returns the character that stands somewhere, with one layer of escapes removed, and where it ends. A byte that is
// escaped is returned as that: the next layer makes a character of it and its neighbors.
func (s stream) character(at int) (text []byte, end int) {
	switch s.text[at] {
	case '\'', '"':
		return nil, at + 1
	case '\\':
		return s.backslashed(at)
	case '%':
		if n := s.number(at+1, 2, 16); n >= 0 {
			return []byte{byte(n)}, at + 3 //nolint:gosec // of two digits
		}
	case '&':
		name := string(entity.Find(s.text[at:]))
		if c := html.UnescapeString(name); c != name {
			return []byte(c), at + len(name)
		}
	}
	r, size := utf8.DecodeRune(s.text[at:])
	if r == utf8.RuneError && size == 1 { // of Latin-1, as Python writes it
		return utf8.AppendRune(nil, rune(s.text[at])), at + 1
	}
	return s.text[at : at+size], at + size
}

// letters stand for controls after a backslash.
const letters, controls = "nrtbfav0e", "\n\r\t\b\f\a\v\x00\x1b"

// backslashed returns the character that is escaped with a run of backslashes; none if that is what stands after it.
func (s stream) backslashed(at int) (text []byte, end int) {
	at = s.after(at, '\\')
	if at == len(s.text) {
		return nil, at
	}
	n := s.number(at, 3, 8)
	if s.text[at] == 'x' {
		n = s.number(at+1, 2, 16)
	}
	if 0 <= n && n <= 0xff {
		return []byte{byte(n)}, at + 3
	}
	if r, end := s.rune(at); end > 0 {
		return utf8.AppendRune(nil, r), end
	}
	if n := strings.IndexByte(letters, s.text[at]); n >= 0 {
		return []byte{controls[n]}, at + 1
	}
	return nil, at
}

// rune returns the character with a number: u002f, u{2f}, U0000002f. end is 0 if there is none.
func (s stream) rune(at int) (r rune, end int) {
	rest := s.text[at:min(at+len("u{10ffff}"), len(s.text))]
	switch {
	case rest[0] == 'U':
		r, end = s.number(at+1, 8, 16), at+9
	case bytes.HasPrefix(rest, []byte("u{")):
		closed := max(bytes.IndexByte(rest, '}'), 2)
		r, end = s.number(at+2, closed-2, 16), at+closed+1
	case rest[0] == 'u':
		r, end = s.number(at+1, 4, 16), at+5
		if utf16.IsSurrogate(r) {
			second := s.after(end, '\\')
			low := s.number(second+1, 4, 16)
			if second == end || low < 0 || s.text[second] != 'u' {
				return 0, 0
			}
			r, end = utf16.DecodeRune(r, low), second+5
		}
	}
	if r < 0 {
		return 0, 0
	}
	return r, end
}

// after returns where a run of a byte ends.
func (s stream) after(at int, b byte) int {
	for at < len(s.text) && s.text[at] == b {
		*s.work++
		at++
	}
	return at
}

// number returns the number that so many digits stand for, or -1.
func (s stream) number(at, digits, base int) rune {
	if at+digits > len(s.text) {
		return -1
	}
	n, err := strconv.ParseUint(string(s.text[at:at+digits]), base, 31)
	if err != nil {
		return -1
	}
	return rune(n)
}

// code writes bits as digits.
type code struct {
	bits   int
	phases int // how many digits may stand before that with which a byte begins
	value  [256]int
}

const noDigit, space = -1, -2 // a space may stand between two digits: lines are wrapped

var codes = []*code{
	newCode(6, 4, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
	newCode(4, 2, "0123456789abcdef", "0123456789ABCDEF"),
}

func newCode(bits, phases int, alphabets ...string) *code {
	c := &code{bits: bits, phases: phases}
	for n := range c.value {
		c.value[n] = noDigit
	}
	for _, b := range []byte("\r\n\t ") {
		c.value[b] = space
	}
	for _, alphabet := range alphabets {
		for n, b := range []byte(alphabet) {
			c.value[b] = n
		}
	}
	return c
}

// noText is a byte that is in no secret in UTF-8. It stands between what was decoded.
const noText = 0xff

// decode returns the bytes that digits stand for, if so many digits of each row of them are left out.
func (c *code) decode(s stream, phase int) stream {
	out := newStream(len(s.text)*c.bits/8, s.work)
	*s.work += len(s.text)
	skip, have, value, from := phase, 0, 0, 0
	for at, b := range s.text {
		digit := c.value[b]
		switch {
		case digit == space:
		case digit == noDigit:
			if last := len(out.text) - 1; last >= 0 && out.text[last] != noText {
				out.put(s.at[at], noText)
			}
			skip, have, value = phase, 0, 0
		case skip > 0:
			skip--
		default:
			if have == 0 {
				from = at
			}
			value, have = value<<c.bits|digit, have+c.bits
			if have >= 8 {
				have -= 8
				out.put(span{s.at[from].begin, s.at[at].end}, byte(value>>have)) //nolint:gosec // of these bits, 8 are kept
				value &= 1<<have - 1
				from = at
			}
		}
	}
	return out
}
