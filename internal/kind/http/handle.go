// SPDX-License-Identifier: Apache-2.0

package http

import (
	"encoding/json"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// handle is what is known of a version beside its value.
type handle struct {
	id    string // the provider's; empty: not known
	label string // that of its order; empty: it was imported
}

type handleRecord struct {
	ID    string `json:"id"`
	Label string `json:"label,omitempty"`
}

func (h handle) text() string {
	data, err := json.Marshal(handleRecord{h.id, h.label})
	if err != nil { // two texts can be written
		return ""
	}
	return string(data)
}

// readHandle returns what is known of a version; false if the id is not: its value was not made yet, or was imported.
func readHandle(options kind.Options, v key.Version) (handle, bool) {
	if o, ordered := readOrder(v.Value); ordered {
		return handle{label: o.label}, false
	}
	var r handleRecord
	if v.Handle != "" && json.Unmarshal([]byte(v.Handle), &r) == nil {
		return handle{r.ID, r.Label}, r.ID != ""
	}
	id := options[optionImportedID]
	return handle{id: id}, id != ""
}
