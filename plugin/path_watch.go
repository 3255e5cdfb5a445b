// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

func (b *backend) pathsWatch() []*framework.Path {
	return []*framework.Path{{
		Pattern: "watch/" + framework.GenericNameRegex("workload"),
		Fields:  requestFields(api.WatchRequest{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: b.operation(b.watch, api.Watched{}, "watch", "bundle", "Wait until an instance should hold another bundle."),
		},
		HelpSynopsis: "Wait until an instance should hold another bundle. Gives no secret and opens no lease.",
		HelpDescription: strings.TrimSpace(`
Blocks until there is news.

    vault read hyvve/watch/api instance=api-7f9c etag=… wait=5s

Returns when the instance's etag is no longer the given one, or without news: after wait, after 5s, or earlier when others
must not wait for it (a leader that steps down, a seal, a reload of the plugin). changed=true means: read hyvve/creds again.
An empty etag in the answer means that the instance is not known, because its lease has ended, or is another login's: read
hyvve/creds too. It comes at once.

An instance has one watch at a time: a newer one ends the older, whose answer says superseded=true. A workload may have
2000, and the mount 5000; more are refused with status 429.

retry_after is 0 except where the engine ends many watches together, because Vault lets no request in: watch again after
between half of so many seconds and all of them, at a random time, so that not all come back at once.
`),
	}}
}

func (b *backend) watch(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.WatchRequest](d)
	if r.Instance == "" {
		return nil, rotation.Refusef("instance is missing; give the name that hyvve/creds was read with")
	}
	wait, err := waitOf(r.Wait, fleet.LongestWatch)
	if err != nil {
		return nil, err
	}
	if !e.SignOfLife(r.Workload, r.Instance, token(req)) { // a watch in another's place would end that of the instance
		return answer(api.Watched{Changed: true}), nil
	}
	now, err := e.Watch(ctx, r.Workload, r.Instance, r.Etag, wait)
	if errors.Is(err, fleet.ErrCrowded) {
		return nil, logical.CodedError(http.StatusTooManyRequests, err.Error())
	}
	if err != nil {
		return nil, err
	}
	return answer(api.Watched{
		Etag: now.Etag, Changed: now.Etag == "" || now.Etag != r.Etag, Superseded: now.Superseded, RetryAfter: api.SecondsOf(now.RetryAfter),
	}), nil
}
