// SPDX-License-Identifier: Apache-2.0

// Package mask hides secrets in texts that programs and servers have written, such as errors. They may quote a secret as a
// renderer wrote it or as they encode it themselves: escaped for JSON, Go, Python, a shell, a URL or HTML, in any mixture, in
// base64 or in hexadecimal.
package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Redacted stands for a secret.
const Redacted = "[redacted]"

// Least is the least length of a part of a value, and of a value in base64 or hexadecimal, to be hidden by itself: anything
// shorter stands in any text. A whole value is hidden whatever its length.
const Least = 4

// Mask hides secrets. The zero Mask hides none.
type Mask struct {
	secrets []string        // that may be escaped, each once
	encoded []string        // that stand as they are
	first   map[byte][]int  // indices of secrets, by their first byte
	literal map[byte][]int  // of encoded
	known   map[string]bool // both
}

// New returns a mask of values. The password of a URL, and the lines of a value, are hidden by themselves, too.
func New(values ...string) Mask {
	m := Mask{first: map[byte][]int{}, literal: map[byte][]int{}, known: map[string]bool{}}
	for _, v := range values {
		m.add(v, 1)
		m.add(strings.TrimSpace(v), 1)
		for _, part := range parts(v) {
			m.add(part, Least)
		}
	}
	return m
}

func (m *Mask) add(secret string, least int) {
	if len(secret) < least || m.known[secret] {
		return
	}
	m.known[secret] = true
	m.first[secret[0]] = append(m.first[secret[0]], len(m.secrets))
	m.secrets = append(m.secrets, secret)
	if len(secret) < Least {
		return
	}
	for _, form := range encodings(secret) {
		if !m.known[form] {
			m.known[form] = true
			m.literal[form[0]] = append(m.literal[form[0]], len(m.encoded))
			m.encoded = append(m.encoded, form)
		}
	}
}

var (
	userinfo = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://[^:@/]*:(.+)@`)
	keyword  = regexp.MustCompile(`(?i)\b(?:password|passwd|pwd)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|"([^"]*)"|([^\s&;]+))`)
)

var unescaped = strings.NewReplacer(`\\`, `\`, `\'`, `'`)

// parts returns what is secret in a value by itself.
func parts(value string) (all []string) {
	if lines := strings.Split(value, "\n"); len(lines) > 1 {
		for _, line := range lines {
			all = append(all, strings.TrimSpace(line))
		}
	}
	var passwords []string
	if found := userinfo.FindStringSubmatch(value); found != nil {
		passwords = append(passwords, found[1])
	}
	for _, found := range keyword.FindAllStringSubmatch(value, -1) {
		passwords = append(passwords, found[1:]...)
		passwords = append(passwords, unescaped.Replace(found[1]))
	}
	for _, p := range passwords {
		all = append(all, p)
		if plain, err := url.PathUnescape(p); err == nil {
			all = append(all, plain)
		}
		if plain, err := url.QueryUnescape(p); err == nil {
			all = append(all, plain)
		}
	}
	return all
}

// encodings returns forms in which no character of a secret stands for itself.
func encodings(secret string) (all []string) {
	all = append(all, hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret))))
	written := []string{secret}
	for _, html := range []bool{true, false} {
		var out bytes.Buffer
		e := json.NewEncoder(&out)
		e.SetEscapeHTML(html)
		if e.Encode(secret) == nil {
			written = append(written, strings.Trim(strings.TrimSpace(out.String()), `"`))
		}
	}
	slices.Sort(written)
	for _, text := range slices.Compact(written) {
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			form := encoding.EncodeToString([]byte(text))
			all = append(all, form, strings.TrimRight(form, "="))
			all = append(all, within(encoding, text)...)
		}
	}
	return all
}

// within returns how a text looks inside of a longer one that is in base64: it may begin at any byte of three. Characters that
// depend on its neighbors are left out.
func within(encoding *base64.Encoding, text string) (all []string) {
	for before := range 3 {
		form := encoding.EncodeToString(append(make([]byte, before), text...))
		begin, end := (before*8+5)/6, (before+len(text))*8/6
		if form = form[min(begin, end):end]; len(form) >= 2*Least {
			all = append(all, form)
		}
	}
	return all
}

// Text returns the text with all secrets hidden.
func (m Mask) Text(text string) string {
	var out strings.Builder
	begin, end, copied := -1, 0, 0 // of the secret that was found last
	flush := func() {
		if begin >= 0 {
			out.WriteString(text[copied:begin])
			out.WriteString(Redacted)
			copied = end
		}
	}
	for at := range len(text) {
		found := m.at(text, at)
		if found == 0 {
			continue
		}
		if begin >= 0 && at < end { // they overlap
			end = max(end, found)
			continue
		}
		flush()
		begin, end = at, found
	}
	flush()
	return out.String() + text[copied:]
}

// at returns the end of the longest secret that begins somewhere in a text, or 0.
func (m Mask) at(text string, at int) (end int) {
	for _, n := range m.literal[text[at]] {
		if strings.HasPrefix(text[at:], m.encoded[n]) {
			end = max(end, at+len(m.encoded[n]))
		}
	}
	if strings.IndexByte(leads, text[at]) < 0 {
		for _, n := range m.first[text[at]] {
			end = max(end, match(text, at, m.secrets[n]))
		}
		return end
	}
	for _, secret := range m.secrets {
		end = max(end, match(text, at, secret))
	}
	return end
}

// match returns the end of a secret that begins somewhere in a text, escaped in whatever way, or 0.
func match(text string, at int, secret string) int {
	ends := []int{at} // where the part of the secret that was matched may end
	var next []int
	for n := 0; n < len(secret); {
		next = next[:0]
		size := runeSize(secret[n:])
		for _, p := range ends {
			next = forms(next, text, p, secret[n:n+size])
		}
		if len(next) == 0 {
			return 0
		}
		slices.Sort(next)
		ends, next = slices.Compact(next), ends
		n += size
	}
	return slices.Max(ends)
}
