// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxPublic is how many bytes of an option PublicText gives.
const maxPublic = 1000

// Hidden stands for what may hold a password.
const Hidden = "(hidden)"

// PublicOption returns an option as a journal may keep it, by the fields that its kind has: see Field.Public. An option that none
// of them describes is hidden, since nobody can say what it may hold.
func PublicOption(fields []Field, name, text string) string {
	n := slices.IndexFunc(fields, func(f Field) bool { return f.Name == name })
	switch {
	case text == "":
		return ""
	case n < 0 || fields[n].Secret:
		return Hidden
	case fields[n].Public == nil || isPEM(text):
		return PublicText(name, text)
	}
	return short(fields[n].Public(text))
}

// PublicText returns a text of that name as a journal may keep it. It removes passwords, even where an operator has put one
// that does not belong there, and shortens long texts, which keep their hash. A certificate is replaced by its hash.
func PublicText(name, text string) string {
	if isPEM(text) {
		sum := sha256.Sum256([]byte(text))
		return "PEM with SHA-256 " + hex.EncodeToString(sum[:8])
	}
	words := strings.Fields(text)
	for n, word := range words {
		switch {
		case strings.Contains(word, "://"):
			words[n] = publicURL(word)
		case strings.Contains(word, "@"), strings.Contains(name, "url") && !isFlag(word):
			words[n] = Hidden
		}
	}
	return short(strings.Join(words, " "))
}

// Quote returns a text in quotes for an error, which a journal keeps too: without passwords, as PublicText does it.
func Quote(text string) string { return strconv.Quote(PublicText("", text)) }

func isPEM(text string) bool { return strings.Contains(text, "-----BEGIN") }

// short returns a text that holds no password, cut if it is too long.
func short(public string) string {
	public = strings.ToValidUTF8(public, "?")
	if len(public) <= maxPublic {
		return public
	}
	sum := sha256.Sum256([]byte(public))
	return CutText(public, maxPublic) + " (" + strconv.Itoa(len(public)) + " bytes with SHA-256 " + hex.EncodeToString(sum[:8]) + ")"
}

func isFlag(word string) bool { return word == "true" || word == "false" }

// CutText returns at most so many bytes of a text, and … where it is longer.
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

// publicURL returns a URL, or NAME=URL, without its password and without parameters that may hold one. A URL that can be read
// in two ways is hidden but for its scheme.
func publicURL(text string) string {
	scheme, rest, _ := strings.Cut(text, "://")
	if strings.Contains(scheme, "@") || strings.Contains(scheme, ":") {
		return Hidden
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
		return scheme + "://" + Hidden
	}
	path, query, asks := strings.Cut(rest, "?")
	path, _, _ = strings.Cut(path, "#")
	if strings.Contains(path, "@") || strings.Contains(path, "://") {
		path = "/" + Hidden
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
			parts[n] = name + "=" + Hidden
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
