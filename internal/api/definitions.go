// SPDX-License-Identifier: Apache-2.0

package api

import "encoding/json"

// ConnectionName names a connection.
type ConnectionName struct {
	Name string `json:"name" doc:"Name of the connection: lower-case letters, digits, '-', '_' and '.'." api:"required"`
}

// ConnectionRequest defines a connection, or changes it; fields that are not given stay. Kinds add fields of their own.
type ConnectionRequest struct {
	ConnectionName
	Kind   string `json:"kind" doc:"What kind of server it is: {kinds}."`
	Verify bool   `json:"verify_connection" doc:"Log in and look at the administrator's privileges before anything is stored." default:"true"`
}

// Connection is an administrator's login at a server, without passwords and private keys.
type Connection struct {
	Name                   string            `json:"name" doc:"Name of the connection."`
	Kind                   string            `json:"kind" doc:"Kind of server."`
	Notes                  []string          `json:"notes" doc:"What an operator should know of the server, in words."`
	Written                Time              `json:"written_time" doc:"When it was last written."`
	LastRootRotation       Time              `json:"last_root_rotation" doc:"When the administrator's password was last changed by rotate-root."`
	RootRotationUnfinished bool              `json:"root_rotation_unfinished" doc:"Whether rotate-root has begun and not ended: write it again."`
	Checked                *Time             `json:"checked_time,omitempty" doc:"When it was last checked. Only in reads and writes of the connection."`
	Problems               []string          `json:"problems,omitzero" doc:"What the last check found wrong, in words. Only in reads and writes of the connection."`
	Options                map[string]string `json:"-" api:"inline" doc:"Fields of the kind, as in the request. URLs are without passwords."`
}

// MarshalJSON implements [json.Marshaler].
func (c Connection) MarshalJSON() ([]byte, error) { return encode(c) }

// UnmarshalJSON implements [json.Unmarshaler].
func (c *Connection) UnmarshalJSON(data []byte) error {
	type fixed Connection
	if err := json.Unmarshal(data, (*fixed)(c)); err != nil {
		return err
	}
	return decodeInline(data, *c, &c.Options)
}

// WorkloadName names a workload.
type WorkloadName struct {
	Name string `json:"name" doc:"Name of the workload, such as api." api:"required"`
}

// WorkloadRequest defines a workload, or changes it; fields that are not given stay.
type WorkloadRequest struct {
	WorkloadName
	Presents       *[]string `json:"presents" doc:"Keys that it presents (as a client) or encrypts with: the whole list, in place of the one before."`
	Verifies       *[]string `json:"verifies" doc:"Keys that it verifies (as a server) or decrypts with: the whole list, in place of the one before."`
	After          *[]string `json:"after" doc:"Workloads whose instances change before those of this one."`
	MinInstances   *int      `json:"min_instances" doc:"A rotation waits until so many live instances take part. 0 for a workload that may be absent." default:"1"`
	MaxInstances   *int      `json:"max_instances" doc:"How many instances it may have at a time, anonymous readers counted, too; reads beyond that are refused." default:"1000"`
	MaxUnavailable *string   `json:"max_unavailable" doc:"How many instances change at a time: a number, or a percentage of the live ones (rounded down, at least one)." default:"25%"`
	SingleValue    *[]string `json:"single_value" doc:"Those of verifies= of which its processes can hold one value at a time. A rotation has a gap there, and says so. \"none\" for none."`
	Reencrypts     *bool     `json:"reencrypts" doc:"Its sidecars reach the database and re-encrypt rows that its keys protect."`
}

// Workload is a set of identical processes that load keys.
type Workload struct {
	Name           string     `json:"name" doc:"Name of the workload."`
	Presents       []string   `json:"presents" doc:"Keys that it presents, or encrypts with."`
	Verifies       []string   `json:"verifies" doc:"Keys that it verifies, or decrypts with."`
	SingleValue    []string   `json:"single_value" doc:"Those of verifies of which its processes can hold one value at a time."`
	After          []string   `json:"after" doc:"Workloads whose instances change first; null: none."`
	MinInstances   int        `json:"min_instances" doc:"A rotation waits until so many live instances take part."`
	MaxInstances   int        `json:"max_instances" doc:"How many instances it may have at a time."`
	MaxUnavailable string     `json:"max_unavailable" doc:"How many instances change at a time: a number or a percentage."`
	Reencrypts     bool       `json:"reencrypts" doc:"Whether its sidecars re-encrypt rows."`
	LimitHit       string     `json:"limit_hit" doc:"That reads were refused in the last day since it, or a login, had too many instances; in words."`
	Instances      []Instance `json:"instances" doc:"Its live instances."`
}

// PresetRequest defines the platform's keys and workloads.
type PresetRequest struct {
	Workloads    []string `json:"workloads" doc:"Which of the platform's workloads run here. Default: all of {workloads}."`
	MinInstances int      `json:"min_instances" doc:"min_instances of each workload." default:"1"`
	Database     string   `json:"database" doc:"Connection to the platform's database: DATABASE_URL becomes one of the keys. Default: it is none."`
	Redis        string   `json:"redis" doc:"Connection to the platform's Redis: REDIS_URL becomes one of the keys. Default: it is none."`
	Generate     bool     `json:"generate" doc:"Make a version 1 of every key that has none. Only for a new platform: rows that are encrypted already would not open under a new key."`
}

// Preset is what the preset defines.
type Preset struct {
	Keys      map[string]PresetKey      `json:"keys" doc:"By name: the keys."`
	Workloads map[string]PresetWorkload `json:"workloads" doc:"By name: the workloads."`
}

// PresetKey is a key of the preset.
type PresetKey struct {
	Env            string            `json:"env" doc:"Environment name under which workloads know it."`
	Kind           string            `json:"kind" doc:"Kind of the key."`
	Options        map[string]string `json:"options" doc:"Fields of the kind."`
	Protects       []string          `json:"protects" doc:"Columns that it encrypts."`
	RotationPeriod Seconds           `json:"rotation_period" doc:"It rotates by itself when a version is so old; 0: only when asked."`
	Defined        bool              `json:"defined" doc:"Whether the mount has it."`
}

// PresetWorkload is a workload of the preset.
type PresetWorkload struct {
	Keys       []string `json:"keys" doc:"Keys that it uses."`
	After      []string `json:"after" doc:"Workloads whose instances change first; null: none."`
	Reencrypts bool     `json:"reencrypts" doc:"Whether its sidecars re-encrypt rows."`
	Defined    bool     `json:"defined" doc:"Whether the mount has it."`
}

// PresetMade is the response to a write of the preset.
type PresetMade struct {
	Made []string `json:"made" doc:"What was made, in words; empty if all was there."`
}
