// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// split returns the part of a header's value that is the token, and what stands before it. The scheme's case and the
// number of spaces are the client's affair: they are passed on, so that the application judges them.
func split(header, value string) (before, token string, ok bool) {
	if header != config.BearerHeader {
		return "", value, value != ""
	}
	const scheme = "bearer "
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", "", false
	}
	token = strings.TrimLeft(value[len(scheme):], " ")
	return value[:len(value)-len(token)], token, token != ""
}

// find returns the place of a token on the accept-list, -1 if it is not there. It always compares with all, by digests of
// one length, so that the time it takes tells nothing.
func (s *snapshot) find(token string) int {
	digest, at := sha256.Sum256([]byte(token)), -1
	for n := range s.digests {
		at = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], s.digests[n][:]), n, at)
	}
	return at
}

// cover replaces a secret wherever it stands in a text, in time that depends on the lengths and the number of hits only.
func cover(text, secret, with string) string {
	if secret == "" || len(text) < len(secret) {
		return text
	}
	var out strings.Builder
	bytes, wanted, from := []byte(text), []byte(secret), 0
	for at := 0; at+len(wanted) <= len(bytes); at++ {
		if at >= from && subtle.ConstantTimeCompare(bytes[at:at+len(wanted)], wanted) == 1 {
			out.WriteString(text[from:at])
			out.WriteString(with)
			from = at + len(wanted)
		}
	}
	if from == 0 {
		return text
	}
	out.WriteString(text[from:])
	return out.String()
}

// alike reports whether an application may take one header for the other: many a gateway interface makes _ of -.
func alike(name, header string) bool {
	return strings.EqualFold(strings.ReplaceAll(name, "_", "-"), header)
}

// match is a request that presents a value on the accept-list.
type match struct {
	key    *held
	state  *snapshot
	place  int    // on the accept-list
	before string // of the token, in the header
}

// untried returns a value that the application may hold by now, and that it was not asked with. A request may be under way while
// the next bundle comes and the application is restarted with it. What the request presents must still be accepted.
func (m match) untried(tried []string) (string, bool) {
	now := m.key.now.Load()
	if !slices.Contains(now.digests, m.state.digests[m.place]) {
		now = m.state
	}
	for _, value := range now.own {
		if !slices.Contains(tried, value) {
			return value, true
		}
	}
	return "", false
}

// match looks a request up on the accept-lists of all keys. One with several values in the header is none: which of
// them an application reads is its own affair, so that they reach it as they are.
func (p *Proxy) match(in http.Header) (found match, ok bool) {
	for _, k := range p.keys {
		values, s := in[k.header], k.now.Load()
		if s == nil || len(values) != 1 {
			continue
		}
		before, token, is := split(k.header, values[0])
		if !is {
			continue
		}
		if place := s.find(token); place >= 0 && !ok {
			found, ok = match{key: k, state: s, place: place, before: before}, true
		}
	}
	return found, ok
}

// translate writes into out what the application is to see of the headers that hold keys; the rest of out is left alone.
// It is given the headers as they came in: what Connection names is taken out of out, and a client that names
// Authorization there must not have its request become another one.
func (p *Proxy) translate(in, out http.Header) (match, bool) {
	found, ok := p.match(in)
	for _, k := range p.keys {
		if values, has := in[k.header]; has {
			out[k.header] = append([]string(nil), values...)
		}
	}
	if ok {
		out[found.key.header] = []string{found.before + found.state.own[0]}
	}
	for _, k := range p.keys {
		if s := k.now.Load(); s != nil && len(s.retired) > 0 {
			k.refuse(s, out, found, ok)
		}
	}
	return found, ok
}

// refuse sees to it that a value which the application still holds, and nobody may present any more, does not reach it:
// it gets one that it does not know, and answers that as it answers any other.
func (k *held) refuse(s *snapshot, out http.Header, found match, ok bool) {
	for name, values := range out {
		if !alike(name, k.header) || ok && name == found.key.header {
			continue
		}
		for n := range values {
			for _, secret := range s.retired {
				values[n] = cover(values[n], secret, k.unknown)
			}
		}
	}
}
