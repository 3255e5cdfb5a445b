// SPDX-License-Identifier: Apache-2.0

package workload

// Login is whose token an instance reads with, as far as Vault tells a plugin. The zero Login is not known.
type Login struct {
	Entity   string `json:"entity,omitempty"`   // id of Vault's entity; empty where the token has none
	Accessor string `json:"accessor,omitempty"` // keyed fingerprint of the token's accessor; of a batch token, of the token
	Name     string `json:"name,omitempty"`     // display name of the token
}

// Known reports whether Vault has said whose login it is.
func (l Login) Known() bool { return l.Accessor != "" }

// Same reports whether both are the same login: the same token, however often it was renewed.
func (l Login) Same(other Login) bool { return l.Known() && l.Accessor == other.Accessor }

// SameEntity reports whether both are of one entity, or of none. All pods of a service account have one entity.
func (l Login) SameEntity(other Login) bool { return l.Entity == other.Entity }
