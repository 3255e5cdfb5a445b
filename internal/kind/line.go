// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"fmt"
	"strings"
	"unicode"
)

// MostSaid is how many bytes of a server's message an error quotes.
const MostSaid = 500

// Line returns at most so many bytes of a text that a server, or an application by way of it, has chosen, on one line, and … where
// it is longer. What a terminal would obey or hide is escaped: such a text stands in plans and in status, beside commands to type.
// The bound is that of the escaped text.
func Line(text string, most int) string {
	text = strings.ToValidUTF8(CutText(text, most), "\uFFFD")
	if len(text) <= most && !strings.ContainsFunc(text, hides) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		piece := string(r)
		if hides(r) {
			piece = fmt.Sprintf("\\u%04x", r)
		}
		if b.Len()+len(piece) > most {
			b.WriteString("…")
			break
		}
		b.WriteString(piece)
	}
	return b.String()
}

func hides(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// ShellQuote returns a text as one word of a shell's command.
func ShellQuote(text string) string {
	if text != "" && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz_") == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
