// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// standardWait is short: a reload of the plugin, a seal and a leader that steps down all wait for requests that block, and
// Vault takes no others meanwhile.
const standardWait = 5 * time.Second

func (b *backend) pathsWatch() []*framework.Path {
	return []*framework.Path{{
		Pattern: "watch/" + framework.GenericNameRegex("workload"),
		Fields: map[string]*framework.FieldSchema{
			"workload": {Type: framework.TypeString, Required: true, Description: "Name of the workload."},
			"instance": {Type: framework.TypeString, Required: true, Query: true, Description: "Name of the instance, as in its read of hyvve/creds."},
			"etag":     {Type: framework.TypeString, Query: true, Description: "The etag that the instance has."},
			"wait":     {Type: framework.TypeDurationSecond, Query: true, Description: "How long to wait for another one: 5s by default, 60s at most, 0s to ask only. A leader that steps down, and a seal, wait for it."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: b.operation(b.watch, "watch", "bundle", "Wait until an instance should hold another bundle."),
		},
		HelpSynopsis: "Wait until an instance should hold another bundle. Gives no secret and opens no lease.",
		HelpDescription: strings.TrimSpace(`
Blocks until there is news.

    vault read hyvve/watch/api instance=api-7f9c etag=… wait=5s

Returns when the instance's etag is no longer the given one, or after wait. changed=true means: read hyvve/creds again.
An empty etag in the answer means that the instance is not known, because its lease has ended: read hyvve/creds too.
`),
	}}
}

func (b *backend) watch(ctx context.Context, e *rotation.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	instance, etag := d.Get("instance").(string), d.Get("etag").(string)
	if instance == "" {
		return nil, rotation.Refusef("instance is missing; give the name that hyvve/creds was read with")
	}
	wait, err := waitOf(d, standardWait)
	if err != nil {
		return nil, err
	}
	now, err := e.Watch(ctx, d.Get("workload").(string), instance, etag, wait)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"etag": now, "changed": now == "" || now != etag}}, nil
}
