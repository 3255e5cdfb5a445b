// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Tripwire recognizes a retired version of a key by a keyed digest, without its value.
type Tripwire struct {
	Version int       `json:"version"`
	Salt    string    `json:"salt"`   // key of the digest; each version has its own
	Digest  string    `json:"digest"` // see TripDigest
	Until   time.Time `json:"until"`  // when it is not looked for any more
}

// TripDigest returns the digest of a tripwire. sum is the SHA-256 of a value.
func TripDigest(salt string, sum [sha256.Size]byte) string {
	mac := hmac.New(sha256.New, []byte(salt))
	mac.Write(sum[:])
	return hex.EncodeToString(mac.Sum(nil))
}

// Trip says how often a retired version of a key was presented to a proxy.
type Trip struct {
	Env     string    `json:"env"`
	Version int       `json:"version"`
	Run     string    `json:"run"`   // of the proxy that counts; each run counts from 0
	Count   int       `json:"count"` // of this run
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	From    []string  `json:"from,omitempty"` // addresses of clients, the last one first
}

// MaxTrips is how many a report has at most, and LongestAgo how long ago what it tells of may have been.
const (
	MaxTrips   = 64
	LongestAgo = 10 * 365 * 24 * time.Hour
)

// MaxTripFrom is how many addresses a [Trip] has.
const MaxTripFrom = 4

// Tripped returns the trip with one more request from an address; empty: it is not known.
func (t Trip) Tripped(from string, now time.Time) Trip {
	if t.Count == 0 {
		t.First = now
	}
	t.Count++
	t.Last = now
	if from == "" {
		return t
	}
	all := append(make([]string, 0, MaxTripFrom), from)
	for _, other := range t.From {
		if other != from && len(all) < MaxTripFrom {
			all = append(all, other)
		}
	}
	t.From = all
	return t
}
