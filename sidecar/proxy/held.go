// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/guard"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/limits"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

const (
	// maxHeld bounds the values that an application may hold: rotations may pass it by without its restarting.
	maxHeld = 4
	// overlap is how long the process before may go on beside the one that has proved to hold a newer value.
	overlap = time.Minute
)

// held is one key before one application: the values to accept, and those that the application may hold.
//
// An application reads its value when it starts and says to nobody when that was. What can be known is which values it
// may have read: that which it had, and every one that was written into its files since. The one it is believed to
// hold is tried first; where it refuses that, the next is; one that it takes after it refused another is what it holds.
// So every restart is noticed, no matter what caused it, and none has to be announced.
//
// The values are stored before files with a newer one are written. Killed anywhere, the next run knows at least what the
// application may hold. The accept-list is stored with them, so that a restart while Vault is away refuses nobody.
type held struct {
	env, header, path string
	unknown           string // what no application knows

	now   atomic.Pointer[snapshot] // nil until something is known; changed under the lock of books
	books *guard.Guarded[books]

	settled   func(error)         // hears how dropping values went
	presented func(workload.Trip) // hears now and then of retired values that were presented
	failed    func(error)         // hears that this could not be stored
}

// books are what is known of a key, and was counted.
type books struct {
	of        *held
	state     state
	front     int // of state.Own: what the application is believed to hold
	settling  *time.Timer
	sightings map[int]*workload.Sighting
	news      uint64 // see [Proxy.News]
	trips     tripwires
}

// state is what is stored. Its values are secrets, which the application's own files beside it hold too.
type state struct {
	Own      []string `json:"own"`     // that the application may hold, in the order in which its files had them
	Accepts  []string `json:"accepts"` // newest first
	Versions []int    `json:"versions"`

	Wires []workload.Tripwire `json:"tripwires,omitempty"` // of retired versions
	Trips *storedTrips        `json:"tripped,omitempty"`   // set when it is stored
}

// snapshot is what requests go by.
type snapshot struct {
	digests  [][sha256.Size]byte // of the accept-list
	versions []int               // parallel to it; perhaps shorter
	own      []string            // the one to try first, first
	retired  []string            // those of own that are not accepted any more
	wires    []workload.Tripwire // of retired versions
}

func newHeld(k Key) *held {
	h := &held{
		env: k.Env, header: k.Header, path: k.State, unknown: "unknown-" + rand.Text(),
		settled: func(error) {}, presented: func(workload.Trip) {}, failed: func(error) {},
	}
	h.books = guard.New(&books{of: h, sightings: map[int]*workload.Sighting{}, trips: newTripwires()})
	return h
}

// restore loads what an earlier run stored, if anything.
func (k *held) restore() error {
	if k.path == "" {
		return nil
	}
	data, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var s state
	if err == nil && (json.Unmarshal(data, &s) != nil || len(s.Own) == 0 || len(s.Accepts) == 0) {
		// The parser's own error may quote what the file holds.
		err = errors.New("it does not hold what the proxy writes; remove it, and restart the application")
	}
	if err != nil {
		return fmt.Errorf("proxy: reading %s: %w", k.path, err)
	}
	b, unlock := k.books.Lock()
	defer unlock()
	b.state, b.front = s, 0
	b.trips.load(s.Trips)
	b.news += uint64(len(b.trips.versions())) // which may not have been reported
	b.publish()
	return nil
}

// take loads a bundle, whose values are about to be written into the application's files.
func (k *held) take(bundle client.Bundle) error {
	b, unlock := k.books.Lock()
	defer unlock()
	next := state{Own: slices.Clone(b.state.Own), Versions: bundle.AcceptVersions[k.env], Wires: bundle.Tripwires[k.env]}
	if bundle.Tripwires == nil { // a last-good copy, which has none
		next.Wires = b.state.Wires
	}
	for _, v := range bundle.Accepts[k.env] {
		next.Accepts = append(next.Accepts, v.Reveal())
	}
	if len(next.Accepts) == 0 {
		return fmt.Errorf("proxy: the bundle has no accept-list of %s; let the workload verify its key: add it to verifies= of the workload", k.env)
	}
	newest := next.Accepts[0]
	if v, ok := bundle.Values[k.env]; ok {
		newest = v.Reveal() // as in its files
	}
	believed := newest
	if len(next.Own) > 0 {
		believed = next.Own[b.front]
	} else {
		// Nothing is known of an application that may have been running before: it may hold whatever is accepted.
		next.Own = slices.Clone(next.Accepts)
		slices.Reverse(next.Own)
	}
	next.Own = append(slices.DeleteFunc(next.Own, func(v string) bool { return v == newest }), newest)
	front := slices.Index(next.Own, believed)
	for len(next.Own) > maxHeld {
		drop := 0
		if front == 0 {
			drop = 1
		}
		next.Own = slices.Delete(next.Own, drop, drop+1)
		front -= 1 - drop
	}
	if err := b.store(next); err != nil {
		return err
	}
	b.state, b.front = next, front
	b.publish()
	return nil
}

// store writes a state unless it is there.
func (b *books) store(s state) error {
	if b.of.path == "" {
		return nil
	}
	s.Trips = b.trips.stored()
	data, err := json.Marshal(s)
	if err == nil {
		err = render.Keep(b.of.path, data)
	}
	if err != nil {
		return fmt.Errorf("proxy: noting what the application holds of %s: %w", b.of.env, err)
	}
	return nil
}

// publish lets requests go by the state.
func (b *books) publish() {
	s := &snapshot{versions: b.state.Versions, wires: b.state.Wires}
	b.trips.keep(s.wires)
	for _, v := range b.state.Accepts {
		s.digests = append(s.digests, sha256.Sum256([]byte(v)))
	}
	s.own = append(s.own, b.state.Own[b.front])
	for n := len(b.state.Own) - 1; n >= 0; n-- { // the newer, the likelier
		if n != b.front {
			s.own = append(s.own, b.state.Own[n])
		}
	}
	for _, v := range b.state.Own {
		if s.find(v) < 0 {
			s.retired = append(s.retired, v)
		}
	}
	b.of.now.Store(s)
	for version := range b.sightings {
		if !slices.Contains(b.state.Versions, version) {
			delete(b.sightings, version)
		}
	}
}

// proved notes that the application has taken a value after it refused the one that it was believed to hold. Those that
// are older are dropped once the process before it must have ended.
func (k *held) proved(value string) {
	b, unlock := k.books.Lock()
	defer unlock()
	at := slices.Index(b.state.Own, value)
	if at < 0 || at == b.front {
		return
	}
	b.front = at
	b.publish()
	b.settleSoon()
}

// settleSoon drops older values after a while.
func (b *books) settleSoon() {
	if b.settling != nil {
		b.settling.Stop()
	}
	b.settling = time.AfterFunc(overlap, b.of.settle)
}

// restarted notes that the application was started after its files had been written with the newest value.
func (k *held) restarted() {
	b, unlock := k.books.Lock()
	defer unlock()
	if len(b.state.Own) < 2 {
		return
	}
	b.front = len(b.state.Own) - 1
	b.publish()
	b.settleSoon()
}

// settle drops what is older than the value that the application holds.
func (k *held) settle() {
	b, unlock := k.books.Lock()
	defer unlock()
	if b.front == 0 {
		return
	}
	next := b.state
	next.Own = slices.Clone(b.state.Own[b.front:])
	err := b.store(next)
	if err == nil {
		b.state, b.front = next, 0
		b.publish()
	}
	k.settled(err)
}

func (k *held) stop() {
	b, unlock := k.books.Lock()
	defer unlock()
	if b.settling != nil {
		b.settling.Stop()
	}
	if b.trips.saving != nil && b.trips.saving.Stop() {
		b.settleTrips()
	}
}

// see counts a request that presented another value than the newest.
func (k *held) see(s *snapshot, place int, from string) {
	if place == 0 || place >= len(s.versions) {
		return
	}
	b, unlock := k.books.Lock()
	defer unlock()
	version := s.versions[place]
	seen := b.sightings[version]
	if seen == nil {
		seen = &workload.Sighting{Env: k.env, Version: version}
		b.sightings[version] = seen
	}
	seen.Count++
	b.news++
	seen.Last, seen.From = time.Now(), from
}

// maxReplayed is the size of a body that is kept while the application may have to be asked again.
const maxReplayed = 64 << 10

type matchKey struct{}

// attempts asks the application again with the next value that it may hold, where it refuses the one before. Only
// requests that presented an accepted value carry a match.
type attempts struct {
	base   http.RoundTripper
	bodies *limits.Budget // bytes that are kept; a body for which there is no room goes once
}

// withMatch marks a request so.
func withMatch(req *http.Request, m match) *http.Request {
	return req.WithContext(context.WithValue(req.Context(), matchKey{}, m))
}

// refused: the application did not take the value, and so has done nothing yet.
func refused(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// RoundTrip implements http.RoundTripper.
func (a attempts) RoundTrip(req *http.Request) (*http.Response, error) {
	m, ok := req.Context().Value(matchKey{}).(match)
	if !ok {
		return a.base.RoundTrip(req)
	}
	kept := &copied{want: max(req.ContentLength, 0)}
	defer kept.ended.Store(true)
	if req.Body != nil && req.Body != http.NoBody {
		kept.want = -1 // it can be sent once
		if req.ContentLength > 0 && req.ContentLength <= maxReplayed && len(req.Trailer) == 0 {
			share, ok := a.bodies.Take(req.Context(), req.ContentLength, func() {})
			defer share.Return()
			if ok && share.Keep() {
				if err := kept.follow(req, len(m.state.own) > 1); err != nil {
					return nil, err
				}
			}
		}
	}
	var tried []string
	var refusal *http.Response
	for value := m.state.own[0]; ; {
		tried = append(tried, value)
		resp, err := a.base.RoundTrip(m.attempt(req, kept, tried))
		switch {
		case err != nil:
			drop(refusal)
			return nil, err
		case !refused(resp.StatusCode):
			drop(refusal)
			if len(tried) > 1 {
				m.key.proved(value)
			}
			return resp, nil
		}
		next, more := m.untried(tried)
		if refusal == nil || likelier(resp.StatusCode, refusal.StatusCode) {
			refusal, resp = resp, refusal
		}
		drop(resp)
		if !more || !kept.whole() {
			return refusal, nil
		}
		hold(refusal)
		value = next
	}
}

// attempt returns the request as it is sent with the last of the values tried.
func (m match) attempt(req *http.Request, kept *copied, tried []string) *http.Request {
	if len(tried) == 1 {
		return req
	}
	again := *req
	again.Header = req.Header.Clone()
	again.Header[m.key.header] = []string{m.before + tried[len(tried)-1]}
	if kept.want > 0 {
		again.Body = io.NopCloser(bytes.NewReader(kept.data))
	}
	return &again
}

// copied is a copy of a request's body, for another attempt.
type copied struct {
	io.ReadCloser // the body
	want          int64
	data          []byte
	read          atomic.Bool // data is all of it
	ended         atomic.Bool // there is an answer, and no other attempt
}

// follow copies the body of a request: beforehand, since another attempt is likely, or else while it is sent.
func (c *copied) follow(req *http.Request, beforehand bool) error {
	c.ReadCloser, c.want, c.data = req.Body, req.ContentLength, make([]byte, 0, req.ContentLength)
	req.Body = c
	if !beforehand {
		return nil
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		return err
	}
	req.Body = io.NopCloser(bytes.NewReader(c.data))
	return nil
}

// Read implements io.Reader.
func (c *copied) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if n > 0 && !c.ended.Load() {
		c.data = append(c.data, p[:n]...)
		c.read.Store(int64(len(c.data)) == c.want)
	}
	return n, err
}

// whole reports whether the body can be sent once more.
func (c *copied) whole() bool { return c.want == 0 || c.read.Load() }

// likelier tells which of two refusals is that of the value which the application holds: a 403 may be about who asks for
// what, and its client must not take it for a 401 about another value. Of equals it is the one that was tried first.
func likelier(status, than int) bool {
	return status == http.StatusForbidden && than == http.StatusUnauthorized
}

// hold reads an answer that may still be passed on, so that its connection can be used again; of a long one only the
// beginning.
func hold(resp *http.Response) {
	head, err := io.ReadAll(io.LimitReader(resp.Body, maxReplayed))
	if err == nil && len(head) < maxReplayed {
		_ = resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(head))
		return
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
}

// drop is for an answer that nobody gets. Read to its end, the connection can be used again; a long one is not worth it.
func drop(resp *http.Response) {
	if resp == nil {
		return
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxReplayed))
	_ = resp.Body.Close()
}
