// SPDX-License-Identifier: Apache-2.0

// Package mask hides secrets in texts that programs and servers have written, such as errors. They may quote a secret as a
// renderer wrote it or as they encode it themselves: escaped for JSON, Go, Python, a shell, a URL or HTML, in any mixture, in
// base64 or in hexadecimal.
//
// The work is linear in the length of the secrets and of the text. Both are reduced to one canonical form without escapes, in
// which the secrets are looked for; what may be base64 or hexadecimal is decoded and searched in the same way.
package mask

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

const (
	// Redacted stands for a secret.
	Redacted = "[redacted]"

	// Withheld stands for a text that is too long to be searched, or in which there are too many secrets to search for.
	Withheld = "[withheld: too much to mask]"

	// Least is the least length of a part of a value, and of a value in base64 or hexadecimal, to be hidden by itself: anything
	// shorter stands in any text. A whole value is hidden whatever its length.
	Least = 4

	maxText    = 256 << 10 // bytes of a text
	maxSecrets = 1 << 20   // bytes of all secrets, and their parts
)

// Mask hides secrets. It takes time to make; keep it for as long as the values stay the same. The zero Mask hides none.
type Mask struct {
	secrets *finder // as they are, and in canonical form
	tooMuch bool
}

// New returns a mask of values. The password of a URL, and the lines of a value, are hidden by themselves, too.
func New(values ...string) Mask {
	seen, patterns := map[string]bool{}, map[string]bool{}
	size := 0
	add := func(secret string, least int) {
		if len(secret) < least || seen[secret] {
			return
		}
		seen[secret], patterns[secret] = true, true
		if size += len(secret); size > maxSecrets {
			return
		}
		if plain := streamOf(secret, new(int)).plain().canonical(); len(plain) >= Least {
			patterns[string(plain)] = true
			return
		}
		for _, form := range escaped(secret) {
			patterns[form] = true
		}
	}
	for _, v := range values {
		add(v, 1)
		add(strings.TrimSpace(v), 1)
		for _, part := range parts(v) {
			add(part, Least)
		}
	}
	if size > maxSecrets {
		return Mask{tooMuch: true}
	}
	return Mask{secrets: newFinder(slices.Sorted(maps.Keys(patterns)))}
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

// Text returns the text with all secrets hidden.
func (m Mask) Text(text string) string {
	masked, _ := m.text(text)
	return masked
}

// text also returns how much work it was: bytes that were looked at, and steps of the finder.
func (m Mask) text(text string) (masked string, work int) {
	switch {
	case text == "" || m.secrets == nil && !m.tooMuch:
		return text, 0
	case m.tooMuch || len(text) > maxText:
		return Withheld, 0
	}
	found, plain := m.search(nil, streamOf(text, &work), 1)
	for _, code := range codes {
		for phase := range code.phases {
			found, _ = m.search(found, code.decode(plain, phase), Least)
		}
	}
	return hide(text, found), work
}

// search appends where secrets are, and returns the text without escapes.
func (m Mask) search(found []span, s stream, least int32) ([]span, stream) {
	found = m.secrets.find(found, s, least)
	s = s.plain()
	canonical := s
	canonical.text = s.canonical()
	return m.secrets.find(found, canonical, Least), s
}

// span is a part of a text.
type span struct{ begin, end int32 }

// hide hides parts of a text; what overlaps is one.
func hide(text string, found []span) string {
	slices.SortFunc(found, func(a, b span) int { return int(a.begin - b.begin) })
	var out strings.Builder
	copied := int32(0)
	for n := 0; n < len(found); {
		at := found[n]
		for n++; n < len(found) && found[n].begin < at.end; n++ {
			at.end = max(at.end, found[n].end)
		}
		out.WriteString(text[copied:at.begin])
		out.WriteString(Redacted)
		copied = at.end
	}
	return out.String() + text[copied:]
}
