// SPDX-License-Identifier: Apache-2.0

// Package excerpt shortens what a program or a server of somebody else has said, so that it can stand in an error.
package excerpt

import (
	"net/http"
	"strconv"
	"strings"
)

// most is how many bytes are shown.
const most = 400

// withheld stands for a text of which nothing can be shown.
const withheld = "(not shown: most of it is secret)"

// Text is what was said, of which perhaps only a part was kept.
type Text struct {
	Kept []byte
	Part bool // more was said, and the text is cut where the kept part begins (End) or ends (Start)
}

// End gives the end of the text with its secrets masked; mask may be nil.
func (t Text) End(mask func(string) string) string {
	text, ok := t.masked(mask)
	if ok && len(text) > most {
		text = "…" + strings.ToValidUTF8(text[len(text)-most:], "")
	}
	return text
}

// Start gives the start of the text with its secrets masked; mask may be nil.
func (t Text) Start(mask func(string) string) string {
	text, ok := t.masked(mask)
	if ok && len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// masked masks before anything is cut, perhaps through a value. Where only a part was kept, a piece of a value may stand
// at its edge; if masking leaves so little that the edge would be shown, nothing is.
func (t Text) masked(mask func(string) string) (text string, ok bool) {
	text = string(t.Kept)
	if mask != nil {
		text = mask(text)
	}
	if t.Part && len(text) <= most {
		return withheld, false
	}
	return strings.TrimSpace(text), true
}

// Status is an answer's status in words of our own: those of a server may quote what it was sent.
func Status(code int) string {
	return strings.TrimSpace(strconv.Itoa(code) + " " + http.StatusText(code))
}
