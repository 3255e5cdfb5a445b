// SPDX-License-Identifier: Apache-2.0

package external

import (
	"net/http"
	"strconv"
	"strings"
)

// maxQuote is how many bytes of a quote are shown.
const maxQuote = 400

// withheld stands for a text of which nothing can be shown.
const withheld = "(not shown: most of it is secret)"

// Quote is what a program or a server has said, so that an error can quote it. Perhaps only a part was kept.
type Quote struct {
	Kept []byte
	Part bool // more was said, and the text is cut where the kept part begins (End) or ends (Start)
}

// End returns the end of the text with its secrets masked; mask may be nil.
func (q Quote) End(mask func(string) string) string {
	text, ok := q.masked(mask)
	if ok && len(text) > maxQuote {
		text = "…" + strings.ToValidUTF8(text[len(text)-maxQuote:], "")
	}
	return text
}

// Start returns the start of the text with its secrets masked; mask may be nil.
func (q Quote) Start(mask func(string) string) string {
	text, ok := q.masked(mask)
	if ok && len(text) > maxQuote {
		text = strings.ToValidUTF8(text[:maxQuote], "") + "…"
	}
	return text
}

// masked masks before anything is cut, perhaps through a value. Where only a part was kept, a piece of a value may stand
// at its edge; if masking leaves so little that the edge would be shown, nothing is.
func (q Quote) masked(mask func(string) string) (text string, ok bool) {
	text = string(q.Kept)
	if mask != nil {
		text = mask(text)
	}
	if q.Part && len(text) <= maxQuote {
		return withheld, false
	}
	return strings.TrimSpace(text), true
}

// StatusText returns a response's status in words of our own: a server's may quote what it was sent.
func StatusText(code int) string {
	return strings.TrimSpace(strconv.Itoa(code) + " " + http.StatusText(code))
}
