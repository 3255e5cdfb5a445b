// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"unicode/utf8"
)

// mostPublic is how many bytes of an option PublicText gives.
const mostPublic = 1000

// hidden stands for what may hold a password.
const hidden = "(hidden)"

// PublicText gives an option as a journal may keep it: without passwords, even those that an operator has put where none
// belongs, and short: what is cut is told from others by its hash. A certificate is named by its hash.
func PublicText(name, text string) string {
	if strings.Contains(text, "-----BEGIN") {
		sum := sha256.Sum256([]byte(text))
		return "PEM with SHA-256 " + hex.EncodeToString(sum[:8])
	}
	words := strings.Fields(text)
	for n, word := range words {
		switch {
		case holdsSecret(name, word, text):
			words[n] = hidden
		case name == "rules" && isCategory(word): // of commands, as +@all
		case strings.Contains(word, "://"):
			words[n] = publicURL(word)
		case strings.Contains(word, "@"), strings.Contains(name, "url") && !isFlag(word):
			words[n] = hidden
		}
	}
	public := strings.ToValidUTF8(strings.Join(words, " "), "?")
	if len(public) <= mostPublic {
		return public
	}
	sum := sha256.Sum256([]byte(public)) // of what holds no password any more
	return CutText(public, mostPublic) + " (" + strconv.Itoa(len(public)) + " bytes with SHA-256 " + hex.EncodeToString(sum[:8]) + ")"
}

// holdsSecret reports whether a word of an option is a password that does not belong there, which a write is refused for: one
// among the rules of a user of Redis, and a header without the place where the value goes.
func holdsSecret(name, word, text string) bool {
	switch name {
	case "rules":
		return strings.IndexAny(strings.TrimLeft(word, "("), "><#!") == 0
	case "verify_format":
		return !strings.Contains(text, "{{value}}")
	}
	return false
}

// isCategory reports whether a word is an ACL rule on a category of commands.
func isCategory(word string) bool {
	word = strings.TrimSuffix(strings.TrimLeft(word, "("), ")")
	return (strings.HasPrefix(word, "+@") || strings.HasPrefix(word, "-@")) && isHostName(word[2:])
}

func isFlag(word string) bool { return word == "true" || word == "false" }

// CutText gives at most so many bytes of a text, and … where it is longer.
func CutText(text string, most int) string {
	if len(text) <= most {
		return text
	}
	end := most
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// publicParameters are those of a URL's query that hold no secret.
var publicParameters = map[string]bool{
	"sslmode": true, "host": true, "hostaddr": true, "port": true, "dbname": true, "db": true, "user": true, "username": true,
	"target_session_attrs": true, "pgbouncer": true, "schema": true, "connection_limit": true, "channel_binding": true,
}

// publicURL gives a URL, or NAME=URL, without its password and without parameters that may hold one. A URL that can be read
// in two ways is hidden but for its scheme.
func publicURL(text string) string {
	scheme, rest, _ := strings.Cut(text, "://")
	if strings.Contains(scheme, "@") || strings.Contains(scheme, ":") {
		return hidden
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, rest := rest[:end], rest[end:]
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, _, _ := strings.Cut(authority[:at], ":")
		authority = user + "@" + authority[at+1:]
	} else if strings.Contains(rest, "@") || !areHosts(authority) { // a '/' of the password may have ended what looks like the host
		return scheme + "://" + hidden
	}
	path, query, asks := strings.Cut(rest, "?")
	path, _, _ = strings.Cut(path, "#")
	if strings.Contains(path, "@") || strings.Contains(path, "://") {
		path = "/" + hidden
	}
	out := scheme + "://" + authority + path
	if !asks {
		return out
	}
	query, _, _ = strings.Cut(query, "#")
	parts := strings.Split(query, "&")
	for n, part := range parts {
		name, value, _ := strings.Cut(part, "=")
		if !publicParameters[strings.ToLower(name)] || strings.Contains(value, "@") {
			if !isHostName(strings.ToLower(name)) || strings.Contains(name, "@") {
				name = ""
			}
			parts[n] = name + "=" + hidden
		}
	}
	return out + "?" + strings.Join(parts, "&")
}

// areHosts reports whether a text is hosts and ports, and not user:password whose '@' is missing.
func areHosts(text string) bool {
	for host := range strings.SplitSeq(text, ",") {
		if _, _, ok := cutPort(host); !ok && text != "" {
			return false
		}
	}
	return true
}
