// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/json"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// following is a rotation that follows one which has ended, and has not started yet. It is stored before the record of the other
// leaves active/, and removed when the rotation is stored.
type following struct {
	Schema int `json:"schema"`
	rotation.Follow
	Follows string   `json:"follows"` // id of the rotation that has ended
	Keys    []string `json:"keys"`

	fault schedule.Fault // why it could not start
}

// followingSchema is the number of the stored form.
const followingSchema = 1

// Encode returns the stored form.
func (n following) Encode() ([]byte, error) { return json.Marshal(n) }

func decodeFollowing(data []byte) (n following, err error) {
	if err := json.Unmarshal(data, &n); err != nil {
		return n, fmt.Errorf("stored rotation that follows: %w", err)
	}
	if n.Schema != followingSchema || n.ID == "" || len(n.Keys) == 0 {
		return n, fmt.Errorf("stored rotation %q that follows has schema %d, this release reads %d; use the release that wrote it or a newer one", n.ID, n.Schema, followingSchema)
	}
	return n, nil
}

// faultText says why it could not start, as the tail of a sentence.
func (n following) faultText() string {
	if n.fault.Reason == "" {
		return ""
	}
	return fmt.Sprintf(": %s; next try at %s", n.fault.Reason, rotation.Stamp(n.fault.Next))
}
