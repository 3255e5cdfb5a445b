// SPDX-License-Identifier: Apache-2.0

// Package variables returns the names and values that a workload reads, from what a bundle holds: NAME, NAME_ACCEPTS and
// NAME_PREVIOUS, in an environment and in files alike.
package variables

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// What stands behind a key's name for its other variables.
const (
	AcceptsAfter  = "_ACCEPTS"
	PreviousAfter = "_PREVIOUS"
)

// Choice says which variables are wanted.
type Choice struct {
	Keys     []string // environment names; empty: all
	Accepts  bool     // adds NAME_ACCEPTS for keys that the workload verifies: every value to accept, newest first
	Previous bool     // adds NAME_PREVIOUS: the second of them, while there is one

	Allow []string // reserved names that the sidecar's own configuration lets keys have
	// Mapped: the bundle's names are written nowhere, since the configuration says what each value is written as.
	Mapped bool
}

// Check refuses names that nothing may be written under: a file, a line or a variable of that name could be anything.
func (c Choice) Check(names iter.Seq[string]) error {
	for _, name := range slices.Sorted(names) {
		if !c.Wants(name) {
			continue
		}
		if err := key.ValidateEnv(name); err != nil {
			return fmt.Errorf("a key cannot be rendered: %w", err)
		}
		if c.Mapped {
			continue
		}
		if err := key.CheckReserved(name, c.Allow); err != nil {
			return fmt.Errorf("a key is not rendered: %w; if the workload is to have it, add it to allow_names of the sidecar's configuration; otherwise take it out of the workload, or name in keys those that are wanted", err)
		}
	}
	return nil
}

// Wants reports whether a key is among those that are wanted.
func (c Choice) Wants(name string) bool { return len(c.Keys) == 0 || slices.Contains(c.Keys, name) }

// Set is what a workload reads. Its values are revealed.
type Set struct {
	Values map[string]string
	Lists  map[string][]string // by NAME_ACCEPTS
	// Gone are names of NAME_PREVIOUS that are wanted and have no value now.
	Gone []string
}

// Of chooses from a bundle. A name that would stand for two things is refused.
func (c Choice) Of(b client.Bundle) (Set, error) {
	if err := errors.Join(c.Check(maps.Keys(b.Values)), c.Check(maps.Keys(b.Accepts))); err != nil {
		return Set{}, err
	}
	s := Set{Values: map[string]string{}, Lists: map[string][]string{}}
	previous := map[string]string{}
	for name, list := range b.Accepts {
		if !c.Wants(name) || len(list) == 0 {
			continue
		}
		// A workload that only verifies a key needs it too: the newest is what it would be configured with.
		s.Values[name] = list[0].Reveal()
		if c.Accepts {
			s.Lists[name+AcceptsAfter] = Reveal(list)
		}
		switch {
		case !c.Previous:
		case len(list) > 1:
			previous[name+PreviousAfter] = list[1].Reveal()
		default:
			s.Gone = append(s.Gone, name+PreviousAfter)
		}
	}
	for name, v := range b.Values {
		if c.Wants(name) {
			s.Values[name] = v.Reveal()
		}
	}
	added := slices.Concat(slices.Collect(maps.Keys(s.Lists)), slices.Collect(maps.Keys(previous)), s.Gone)
	slices.Sort(added)
	for _, name := range added {
		if _, ok := s.Values[name]; ok {
			return Set{}, fmt.Errorf("%s is a key's own name; leave accepts or previous out, or name that key otherwise", name)
		}
	}
	maps.Copy(s.Values, previous)
	slices.Sort(s.Gone)
	return s, nil
}

// Text is the set with each list as the text of a JSON array.
func (s Set) Text() (map[string]string, error) {
	all := maps.Clone(s.Values)
	for name, list := range s.Lists {
		text, err := JSON(list)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[name] = text
	}
	return all, nil
}

// JSON is a value as JSON text on one line, with <, > and & as they are.
func JSON(value any) (string, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return strings.TrimSpace(out.String()), err
}

// Reveal returns the secrets of a list as strings, for code that must pass them on.
func Reveal(list []key.Value) []string {
	all := make([]string, 0, len(list))
	for _, v := range list {
		all = append(all, v.Reveal())
	}
	return all
}
