// SPDX-License-Identifier: Apache-2.0

// Package api describes the paths of the engine: one type for each request and each response. The plugin answers from
// these types, client and sidecar decode into them, and path-help, OpenAPI and docs/api.md are generated from them.
//
// A field is described by its tags:
//
//	json     name, and omitempty or omitzero if the field may be absent
//	doc      description, for people
//	default  value of a request's field that is not given
//	api      required, query (read from the URL in reads and lists), secret, in any combination
//
// A field of a request that is a pointer tells "not given" apart from the zero value. A map that is embedded under the
// json name "-" with api:"inline" holds fields whose names vary.
package api

import (
	"encoding/json"
	"fmt"
	"time"
)

// Seconds is a duration: seconds in a response, and in a request a duration such as 30s, or seconds.
type Seconds int64

// SignedSeconds are [Seconds] that may be negative in a request: -1 goes back to the default.
type SignedSeconds int64

// SecondsOf returns a duration in whole seconds.
func SecondsOf(d time.Duration) Seconds { return Seconds(d / time.Second) }

// Duration returns it as a duration.
func (s Seconds) Duration() time.Duration { return time.Duration(s) * time.Second }

// Time is a moment, as RFC 3339 with nanoseconds in UTC. No moment is an empty string.
type Time struct{ time.Time }

// String returns it as JSON has it.
func (t Time) String() string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// MarshalJSON implements [json.Marshaler].
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }

// UnmarshalJSON implements [json.Unmarshaler].
func (t *Time) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	*t = Time{}
	if text == "" {
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return fmt.Errorf("%q is not a time: %w", text, err)
	}
	t.Time = at
	return nil
}

// List is the response of a list.
type List struct {
	Keys []string `json:"keys,omitempty" doc:"Names, sorted. Absent if there are none."`
}
