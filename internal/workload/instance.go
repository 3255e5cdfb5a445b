// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Held is what an instance holds of one key, as version numbers; 0 and nil where its role has no part in it.
type Held struct {
	Value   int   `json:"value,omitempty"`   // presented
	Accepts []int `json:"accepts,omitempty"` // verified against, newest first
}

// Equal compares.
func (h Held) Equal(other Held) bool {
	return h.Value == other.Value && slices.Equal(h.Accepts, other.Accepts)
}

// Uses reports whether a version is among what is held.
func (h Held) Uses(version int) bool {
	return h.Value == version || slices.Contains(h.Accepts, version)
}

// Holding is what a bundle gave to an instance.
type Holding struct {
	Etag string          `json:"etag"`
	At   time.Time       `json:"at"`
	Keys map[string]Held `json:"keys"` // by key name
}

// Instance is one process of a workload, known by the lease that its read of creds/ opened.
type Instance struct {
	Workload  string   `json:"workload"`
	ID        string   `json:"id"`
	Anonymous bool     `json:"anonymous,omitempty"` // read without instance=; it never reports
	Epoch     string   `json:"epoch"`               // of its newest read; leases of older reads have no say
	Issued    Holding  `json:"issued"`              // what its newest read gave
	Loaded    *Holding `json:"loaded,omitempty"`    // what it last reported to have loaded
	// Unproved are the keys of which it was given something else since Loaded, by name: whatever it was given in between,
	// it runs with the others as they were.
	Unproved map[string]bool `json:"unproved,omitempty"`
	Healthy  bool            `json:"healthy"`
	Reason   string          `json:"reason,omitempty"` // why it is not healthy, in its own words
	Judged   time.Time       `json:"judged,omitzero"`  // when it last reported its health since it was given Issued
	Seen     time.Time       `json:"seen"`             // last read or report
	Proven   time.Time       `json:"proven,omitzero"`  // when it last reported that it runs with something else than before
	Proof    Proof           `json:"proof,omitempty"`  // how it knows that it runs with Loaded

	Login    Login     `json:"login,omitzero"`     // that may read under its name; not known of records of earlier releases
	LoggedIn time.Time `json:"logged_in,omitzero"` // when Login has first read under its name
	// Heartbeat says that it sends signs of life every few seconds, as it said when it read. Others go by their lease.
	Heartbeat bool `json:"heartbeat,omitempty"`
	// Pod and Node are where it runs in Kubernetes. It says so itself: Vault's kubernetes method does not know.
	Pod  string `json:"pod,omitempty"`
	Node string `json:"node,omitempty"`

	Sightings []Sighting `json:"sightings,omitempty"` // what its proxy has seen last

	// Multiline says that it can carry values of several lines, but for those named OneLine, which are environment names. It
	// said so in its newest read. An instance that says nothing can carry none.
	Multiline bool     `json:"multiline,omitempty"`
	OneLine   []string `json:"one_line,omitempty"`

	// Leaving is set where its sidecar has stopped beside its process, until its next read.
	Leaving Leaving `json:"leaving,omitzero"`

	// TTL is the longest time for which a lease on Issued was given.
	TTL time.Duration `json:"ttl"`
}

// Leaving says that the sidecar of an instance has stopped and its process may run on, with what it has. Nobody reports for it
// any more, and it counts as live until its lease ends.
type Leaving struct {
	At    time.Time `json:"at"`    // when the sidecar said so
	Until time.Time `json:"until"` // when the lease ends
}

// IsZero reports whether nothing was said.
func (l Leaving) IsZero() bool { return l.At.IsZero() }

// Sighting is evidence of use: a request came that presented a version of a key which is accepted and not the newest.
type Sighting struct {
	Env     string    `json:"env"`
	Version int       `json:"version"`
	Count   int       `json:"count"`
	Last    time.Time `json:"last"`
	From    string    `json:"from,omitempty"` // address of the client of the last one
}

// Name is how gates and people call it.
func (i Instance) Name() string { return i.Workload + "/" + i.ID }

// Carries reports whether the instance can carry a value of several lines under an environment name.
func (i Instance) Carries(env string) bool { return i.Multiline && !slices.Contains(i.OneLine, env) }

// Runs reports whether the instance is known to run with what it was given of a key last. To have loaded the same before it
// was given something else is no proof: it may have loaded that meanwhile. An anonymous reader never reports; it counts as
// running with what it was given.
func (i Instance) Runs(keyName string) bool {
	return i.Anonymous || i.Loaded != nil && !i.Unproved[keyName]
}

// Given is the instance after it was given a holding.
func (i Instance) Given(h Holding) Instance {
	unproved := map[string]bool{}
	for name := range i.Unproved {
		unproved[name] = true
	}
	for name, held := range h.Keys {
		if !held.Equal(i.Issued.Keys[name]) {
			unproved[name] = true
		}
	}
	if i.Issued.Etag != h.Etag {
		i.Judged = time.Time{}
	}
	i.Issued, i.Unproved = h, unproved
	return i
}

// Proved is the instance after it has reported that it runs with what it was given.
func (i Instance) Proved(at time.Time) Instance {
	issued := i.Issued
	i.Loaded, i.Unproved, i.Proven = &issued, nil, at
	return i
}

// AllProved reports whether it is known to run with all that it was given.
func (i Instance) AllProved() bool {
	return i.Loaded != nil && i.Loaded.Etag == i.Issued.Etag && len(i.Unproved) == 0
}

// Silent reports whether it reads and reports nothing, as Vault Agent and scripts do: that it has read a bundle is all that is ever
// known of it.
func (i Instance) Silent() bool { return !i.Heartbeat && i.Loaded == nil && i.Judged.IsZero() }

// HoldsLoaded is what the instance last reported to run with.
func (i Instance) HoldsLoaded() (Holding, bool) {
	if i.Anonymous {
		return i.Issued, true
	}
	if i.Loaded == nil {
		return Holding{}, false
	}
	return *i.Loaded, true
}

// Running is what the instance runs with, as far as is known: what it has reported last, or what it was given where it has
// reported nothing.
func (i Instance) Running() Holding {
	if holding, ok := i.HoldsLoaded(); ok {
		return holding
	}
	return i.Issued
}

// MayPresent reports whether the instance may still present a version: it was given it, or runs with it. This is the
// evidence that keeps an old version alive.
func (i Instance) MayPresent(keyName string, version int) bool {
	if i.Issued.Keys[keyName].Value == version {
		return true
	}
	return i.Loaded != nil && i.Loaded.Keys[keyName].Value == version
}

type instanceRecord struct {
	Schema int `json:"schema"`
	Instance
}

// instanceSchema is the number of the stored form. Schema 1 had a hash of the instance's secret, which follows from Epoch
// now, and no TTL.
const instanceSchema = 2

// Encode returns the stored form.
func (i Instance) Encode() ([]byte, error) { return json.Marshal(instanceRecord{instanceSchema, i}) }

// DecodeInstance reads the stored form, of this schema and of those before.
func DecodeInstance(data []byte) (Instance, error) {
	var r instanceRecord
	if err := decode(data, &r, func() int { return r.Schema }, instanceSchema); err != nil {
		return Instance{}, fmt.Errorf("stored instance: %w", err)
	}
	if r.Workload == "" || r.ID == "" || r.Epoch == "" {
		return Instance{}, fmt.Errorf("stored instance: workload, id or epoch is missing")
	}
	if r.Schema == 1 && (r.Loaded == nil || r.Loaded.Etag != r.Issued.Etag) {
		r.Unproved = map[string]bool{}
		for name := range r.Issued.Keys {
			r.Unproved[name] = true
		}
	}
	return r.Instance, nil
}
