// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func (b *backend) pathsTripwires() []*framework.Path {
	return []*framework.Path{{
		Pattern: "keys/(?P<name>[^/]+)/acknowledge",
		Fields:  requestFields(api.AcknowledgeRequest{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.write(b.acknowledge, aboutKey("acknowledging that retired versions were presented"), api.Acknowledged{}, "acknowledge", "key", "Clear from the status that retired versions of a key were presented."),
		},
		HelpSynopsis: "Clear from the status that retired versions of a key were presented.",
		HelpDescription: strings.TrimSpace(`
Proxies of sidecars recognize retired versions of the keys that they verify, for tripwire_retention of hyvve/config. One that is
presented is refused as any wrong value, and counted: it is a forgotten job or an intruder. hyvve/status says so until somebody
acknowledges it here, and says it again when one is presented after that. The counts stay at hyvve/keys/NAME.

    vault read hyvve/keys/NAME                                  who has presented what
    vault write hyvve/keys/NAME/acknowledge version=3 reason="nightly job of billing, mended"
    vault write -f hyvve/keys/NAME/acknowledge
`),
	}}
}

func (b *backend) acknowledge(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.AcknowledgeRequest](d)
	number := 0
	if r.Version != nil {
		if number = *r.Version; number <= 0 {
			return nil, rotation.Refusef("version %d is no number of a version; leave it out for all (vault read hyvve/keys/%s lists the versions)", number, r.Name)
		}
	}
	versions, err := e.Acknowledge(ctx, r.Name, number, r.Reason, caller(req))
	if err != nil {
		return nil, err
	}
	resp := answer(api.Acknowledged{Versions: append([]int{}, versions...)})
	if len(versions) == 0 {
		resp.AddWarning("Nothing was presented since the last time: there is nothing to acknowledge.")
	}
	return resp, nil
}

// tripwires are those of a bundle; nil: its reader is no sidecar.
func tripwires(all map[string][]workload.Tripwire) map[string][]api.Tripwire {
	if all == nil {
		return nil
	}
	wire := map[string][]api.Tripwire{}
	for env, list := range all {
		for _, t := range list {
			wire[env] = append(wire[env], api.Tripwire{Version: t.Version, Salt: t.Salt, Digest: t.Digest, Until: api.Time{Time: t.Until}})
		}
	}
	return wire
}

// presented are retired versions that were presented.
func presented(trips []engine.Trip) []api.Presented {
	all := []api.Presented{}
	for _, t := range trips {
		p := api.Presented{
			Version: t.Version, Count: t.Count, First: api.Time{Time: t.First}, Last: api.Time{Time: t.Last}, Acknowledged: t.Acknowledged, Clients: []api.Client{},
		}
		for _, c := range t.Clients {
			p.Clients = append(p.Clients, api.Client{From: c.From, SeenBy: c.By, Last: api.Time{Time: c.Last}})
		}
		all = append(all, p)
	}
	return all
}

// trips reads the entries of tripped. Their age is counted from when the report came.
func trips(list []any, now time.Time) ([]workload.Trip, error) {
	var all []workload.Trip
	for _, item := range list {
		t, err := decoded[api.Trip](item)
		if err != nil || !(t.LastSeen >= 0 && t.LastSeen <= t.FirstSeen && t.FirstSeen <= longestAgo) {
			return nil, untrusted.ErrTrip
		}
		all = append(all, workload.Trip{
			Env: t.Env, Version: t.Version, Run: t.Run, Count: t.Count, First: before(now, t.FirstSeen), Last: before(now, t.LastSeen), From: t.From,
		})
	}
	return all, untrusted.CheckTrips(all)
}
