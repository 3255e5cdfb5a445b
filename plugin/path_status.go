// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

func (b *backend) pathsStatus() []*framework.Path {
	return []*framework.Path{{
		Pattern: "status",
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: b.operation(b.readStatus, "read", "status", "Read every key with age, next rotation and what blocks."),
		},
		HelpSynopsis:    "Every key with age, next rotation, and what blocks.",
		HelpDescription: "keys has one entry a key. rotating and blocked say in one line each what is under way and what it waits for.",
	}}
}

func (b *backend) readStatus(_ context.Context, e *rotation.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	keys := map[string]any{}
	rotating, blocked, due := []string{}, []string{}, []string{}
	for _, s := range e.Status() {
		k := s.Key
		entry := map[string]any{
			"env": k.Env, "kind": k.Kind, "current_version": 0, "age": "", "state": "idle", "rotation": "",
			"waits_for": s.Waits, "next_rotation": stamp(s.Due),
		}
		if current, ok := k.Current(); ok {
			entry["current_version"] = current.Number
			entry["age"] = time.Since(current.Created).Round(time.Second).String()
		} else {
			entry["state"] = "no version"
		}
		if s.Rotation != nil {
			entry["state"], entry["rotation"] = string(s.Rotation.State), s.Rotation.ID
			rotating = append(rotating, fmt.Sprintf("%s: %s %s (%s)", k.Name, s.Rotation.State, s.Rotation.Step, s.Rotation.ID))
		}
		if s.Waits != "" {
			blocked = append(blocked, k.Name+": "+s.Waits)
		}
		if !s.Due.IsZero() {
			due = append(due, fmt.Sprintf("%s: %s", k.Name, stamp(s.Due)))
		}
		keys[k.Name] = entry
	}
	return &logical.Response{Data: map[string]any{"keys": keys, "rotating": rotating, "blocked": blocked, "due": due}}, nil
}
