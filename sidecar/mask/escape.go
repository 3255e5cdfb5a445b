// SPDX-License-Identifier: Apache-2.0

package mask

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// leads are what may begin a character that is escaped.
const leads = `\%&+'"`

func runeSize(text string) int {
	_, size := utf8.DecodeRuneInString(text)
	return size
}

// forms appends where a character ends that stands somewhere in a text as it is or escaped.
func forms(ends []int, text string, at int, character string) []int {
	rest := text[at:]
	if rest == "" {
		return ends
	}
	if strings.HasPrefix(rest, character) {
		ends = append(ends, at+len(character))
	}
	switch rest[0] {
	case '\\':
		return append(ends, backslashed(text, at, character)...)
	case '%':
		for times := 1; times <= 3; times++ {
			if end := percent(text, at, character, times); end > 0 {
				ends = append(ends, end)
			}
		}
	case '+':
		if character == " " {
			ends = append(ends, at+1)
		}
	case '&':
		if end := entity(rest, character); end > 0 {
			ends = append(ends, at+end)
		}
	case '\'', '"':
		ends = append(ends, quotes(rest, at, character)...)
	}
	return ends
}

// quotes are those that a shell needs for a quote: the text ends before it and begins again after it.
func quotes(rest string, at int, character string) (ends []int) {
	for _, form := range []string{`'\` + character + `'`, `'"` + character + `"'`, `"'` + character + `'"`} {
		if (character == "'" || character == `"` || character == "!") && strings.HasPrefix(rest, form) {
			ends = append(ends, at+len(form))
		}
	}
	return ends
}

// entity returns the length of a character of HTML or XML.
func entity(rest, character string) int {
	end := strings.IndexByte(rest, ';')
	if end < 2 || end > 10 {
		return 0
	}
	name := rest[1:end]
	if named := map[string]string{"amp": "&", "lt": "<", "gt": ">", "quot": `"`, "apos": "'"}[name]; named != "" {
		if named == character {
			return end + 1
		}
		return 0
	}
	r, _ := utf8.DecodeRuneInString(character)
	number, base := strings.TrimPrefix(name, "#"), 10
	if trimmed := strings.TrimLeft(number, "xX"); trimmed != number {
		number, base = trimmed, 16
	}
	if n, err := strconv.ParseUint(number, base, 32); err == nil && name[0] == '#' && rune(n) == r { //nolint:gosec // at most 32 bits
		return end + 1
	}
	return 0
}

// percent returns the end of a character whose bytes are percent-encoded, so many times; 0 if it is not there.
func percent(text string, at int, character string, times int) int {
	sign := "%" + strings.Repeat("25", times-1)
	for n := range len(character) {
		if !strings.HasPrefix(text[at:], sign) || hexadecimal(text, at+len(sign), 2) != int(character[n]) {
			return 0
		}
		at += len(sign) + 2
	}
	return at
}

// hexadecimal returns the number that so many digits somewhere in a text stand for, or -1.
func hexadecimal(text string, at, digits int) int { return number(text, at, digits, 16) }

func number(text string, at, digits, base int) int {
	if at+digits > len(text) {
		return -1
	}
	n, err := strconv.ParseUint(text[at:at+digits], base, 32)
	if err != nil {
		return -1
	}
	return int(n)
}

// controls are letters that stand for control characters after a backslash.
var controls = map[string]string{"\n": "n", "\t": "t", "\r": "r", "\b": "b", "\f": "f", "\a": "a", "\v": "v", "\x00": "0", "\x1b": "e"}

// backslashed returns where a character may end that is escaped with one or more backslashes: what is escaped may be escaped
// again.
func backslashed(text string, at int, character string) (ends []int) {
	begin := at
	for at < len(text) && text[at] == '\\' {
		at++
		if character == `\` && at > begin+1 {
			ends = append(ends, at)
		}
	}
	if at == len(text) {
		return ends
	}
	r, size := utf8.DecodeRuneInString(character)
	letter := 'a' <= r|0x20 && r|0x20 <= 'z' || '0' <= r && r <= '9'
	if character != `\` && !letter && strings.HasPrefix(text[at:], character) {
		ends = append(ends, at+size)
	}
	if c := controls[character]; c != "" && strings.HasPrefix(text[at:], c) {
		ends = append(ends, at+1)
	}
	if end := escapedRune(text, at, r, size); end > 0 {
		ends = append(ends, end)
	}
	if end := escapedBytes(text, begin, character); end > 0 {
		ends = append(ends, end)
	}
	return ends
}

// escapedRune returns the end of a character by its number, after its backslashes; 0 if it is not there.
func escapedRune(text string, at int, r rune, size int) int {
	if r == utf8.RuneError && size == 1 {
		return 0
	}
	switch text[at] {
	case 'U':
		if hexadecimal(text, at+1, 8) == int(r) {
			return at + 9
		}
	case 'x':
		if size == 1 || r > 0xff {
			return 0 // it is a byte
		}
		if hexadecimal(text, at+1, 2) == int(r) { // of Python
			return at + 3
		}
	case 'u':
		if strings.HasPrefix(text[at:], "u{") {
			if end := strings.IndexByte(text[at:], '}'); end > 2 && hexadecimal(text, at+2, end-2) == int(r) {
				return at + end + 1
			}
			return 0
		}
		if hexadecimal(text, at+1, 4) == int(r) {
			return at + 5
		}
		high, low := utf16.EncodeRune(r)
		if hexadecimal(text, at+1, 4) != int(high) {
			return 0
		}
		second := at + 5
		for second < len(text) && text[second] == '\\' {
			second++
		}
		if second > at+5 && strings.HasPrefix(text[second:], "u") && hexadecimal(text, second+1, 4) == int(low) {
			return second + 5
		}
	}
	return 0
}

// escapedBytes returns the end of a character whose bytes are written by their numbers, in hexadecimal or octal, with
// backslashes before each; 0 if it is not there.
func escapedBytes(text string, at int, character string) int {
	for n := range len(character) {
		begin := at
		for at < len(text) && text[at] == '\\' {
			at++
		}
		switch want := int(character[n]); {
		case at == begin || at == len(text):
			return 0
		case text[at] == 'x' && hexadecimal(text, at+1, 2) == want, number(text, at, 3, 8) == want:
			at += 3
		default:
			return 0
		}
	}
	return at
}
