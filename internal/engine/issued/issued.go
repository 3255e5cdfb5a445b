// SPDX-License-Identifier: Apache-2.0

// Package issued remembers every value that a mount has ever issued, by a keyed digest: long after the value is erased, the
// mount can say of a value that somebody has found which key and version it was.
package issued

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Prefix is where the records are, by digest.
const Prefix = "issued/"

// PartPassword is the Part of a password in a URL.
const PartPassword = "password"

// leastPart is the least length of a part that is remembered by itself: a shorter one may be anybody's.
const leastPart = 8

// Store keeps records by path. Get returns nil where there is none.
type Store interface {
	Get(ctx context.Context, path string) ([]byte, error)
	Put(ctx context.Context, path string, data []byte) error
}

// Version names a version whose value, or a part of it, has a digest.
type Version struct {
	Key         string    `json:"key"`
	Env         string    `json:"env"`
	Number      int       `json:"version"`
	Fingerprint string    `json:"fingerprint"`    // of the whole value: a key that was deleted may have a successor of its name
	Part        string    `json:"part,omitempty"` // empty: the whole value
	Created     time.Time `json:"created"`
	CreatedBy   string    `json:"created_by,omitempty"`
	Rotation    string    `json:"rotation,omitempty"`
}

// VersionOf names a version of a key, by its whole value.
func VersionOf(k key.Key, v key.Version) Version {
	return Version{Key: k.Name, Env: k.Env, Number: v.Number, Fingerprint: v.Fingerprint, Created: v.Created, CreatedBy: v.CreatedBy, Rotation: v.Rotation}
}

func (v Version) same(o Version) bool {
	return v.Key == o.Key && v.Number == o.Number && v.Fingerprint == o.Fingerprint && v.Part == o.Part
}

const schema = 1

type record struct {
	Schema   int       `json:"schema"`
	Digest   string    `json:"digest"`
	Versions []Version `json:"versions"`
}

var (
	errDamaged = errors.New("the stored record of an issued value is damaged; writing its key again mends it")
	errNewer   = errors.New("the stored record of an issued value is of a newer release")
)

// Index finds versions by value. Its methods may be called from any goroutine.
type Index struct {
	store Store
	sum   func(parts ...string) string

	mu    sync.Mutex
	known map[string]bool // fingerprints of versions that are stored with all their parts
}

// New makes an index. sum is a keyed hash that no one outside the mount can compute.
func New(store Store, sum func(parts ...string) string) *Index {
	return &Index{store: store, sum: sum, known: map[string]bool{}}
}

// Add remembers all versions of a key that have a value. It writes nothing where they are remembered.
func (x *Index) Add(ctx context.Context, k key.Key) error {
	for _, v := range k.Versions {
		value := v.Value
		if v.State == key.Retained {
			value = v.Sealed
		}
		if value.Empty() || x.knows(k, v) {
			continue
		}
		of := VersionOf(k, v)
		if err := x.add(ctx, value.Reveal(), of); err != nil {
			return err
		}
		of.Part = PartPassword
		for _, part := range dsn.Passwords(value.Reveal()) {
			if len(part.Reveal()) < leastPart {
				continue
			}
			if err := x.add(ctx, part.Reveal(), of); err != nil {
				return err
			}
		}
		x.mu.Lock()
		x.known[id(k, v)] = true
		x.mu.Unlock()
	}
	return nil
}

func id(k key.Key, v key.Version) string {
	return fmt.Sprint(k.Name, "/", v.Number, "/", v.Fingerprint)
}

func (x *Index) knows(k key.Key, v key.Version) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.known[id(k, v)]
}

func (x *Index) add(ctx context.Context, value string, of Version) error {
	digest := x.digest(value)
	r, err := x.read(ctx, digest)
	switch {
	case errors.Is(err, errNewer):
		return nil // which release knows it, too; no rotation is held up
	case errors.Is(err, errDamaged):
		r = record{}
	case err != nil || slices.ContainsFunc(r.Versions, of.same):
		return err
	}
	r.Versions = append(r.Versions, of)
	data, err := json.Marshal(record{schema, digest, r.Versions})
	if err != nil {
		return fmt.Errorf("encoding what was issued: %w", err)
	}
	return x.store.Put(ctx, Prefix+digest, data)
}

func (x *Index) digest(value string) string { return x.sum("issued", value) }

// read returns the record of a digest. The store may take longer for one that is there: that tells nothing of
// other values, since digests are keyed.
func (x *Index) read(ctx context.Context, digest string) (record, error) {
	data, err := x.store.Get(ctx, Prefix+digest)
	if err != nil {
		return record{}, fmt.Errorf("reading what was issued: %w", err)
	}
	if data == nil {
		return record{}, nil
	}
	var r record
	err = json.Unmarshal(data, &r)
	switch {
	case err == nil && r.Schema > schema:
		return record{}, fmt.Errorf("%w: schema %d is newer than %d", errNewer, r.Schema, schema)
	case err != nil || !hmac.Equal([]byte(r.Digest), []byte(digest)):
		return record{}, errDamaged
	}
	return r, nil
}

// Find returns the versions that a value was issued as, or as a part of. It also finds a value that stands in a line of a
// .env file, in quotes, in a header, or in a URL.
func (x *Index) Find(ctx context.Context, text string) ([]Version, error) {
	var all []Version
	for _, value := range Candidates(text) {
		r, err := x.read(ctx, x.digest(value))
		if err != nil {
			return nil, err
		}
		for _, v := range r.Versions {
			if !slices.ContainsFunc(all, v.same) {
				all = append(all, v)
			}
		}
	}
	return all, nil
}

// maxCandidates bounds how many values are looked for in one text.
const maxCandidates = 64

// Candidates returns what the value may be in a text that somebody has found, the text itself first.
func Candidates(text string) []string {
	var all []string
	add := func(s string) {
		if s != "" && len(all) < maxCandidates && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	plain := func(s string) {
		s = strings.TrimSpace(s)
		add(s)
		for _, quote := range []string{`"`, `'`, "`"} {
			if inner, ok := strings.CutPrefix(s, quote); ok {
				s = strings.TrimSuffix(inner, quote)
				add(s)
			}
		}
		for _, password := range dsn.Passwords(s) {
			add(password.Reveal())
		}
	}
	add(text)
	plain(text)
	add(strings.TrimSpace(text) + "\n") // a file's end is easily lost
	for line := range strings.Lines(text) {
		plain(line)
		if _, after, ok := strings.Cut(line, "="); ok {
			plain(after)
		}
		if _, after, ok := strings.Cut(line, ": "); ok { // a header, or YAML
			plain(after)
			line = after
		}
		if fields := strings.Fields(line); len(fields) == 2 { // Bearer …
			plain(fields[1])
		}
	}
	return all
}
