// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func (b *backend) pathsReport() []*framework.Path {
	return []*framework.Path{b.pathLeave(), {
		Pattern: "report/" + framework.GenericNameRegex("workload"),
		Fields:  requestFields(api.ReportRequest{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.lenient(b.report, api.Reported{}, "report", "instance", "Say what an instance has loaded, and whether it is healthy."),
		},
		HelpSynopsis: "For sidecars: what an instance has loaded, whether it is healthy, evidence of work.",
		HelpDescription: strings.TrimSpace(`
A report is believed only with the instance_secret that the instance's newest read of hyvve/creds returned. The answer
has the etag that the instance should have.

With extend_lease=true it counts as live for lease_ttl from then on, and the answer's lease_duration says in how many seconds
to report again at the latest. Vault's own lease on the bundle need not be renewed. hyvve/leave/NAME ends it.
`),
	}}
}

func (b *backend) report(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.ReportRequest](d)
	if r.Instance == "" || r.Secret == "" {
		return nil, rotation.Refusef("instance or instance_secret is missing; both come with a read of hyvve/creds/%s instance=…", r.Workload)
	}
	if r.Healthy == nil {
		if !r.ExtendLease {
			return nil, rotation.Refusef("healthy is missing; say true or false, or extend_lease=true for a sign of life alone")
		}
		return b.extend(e, r)
	}
	work, err := workReports(d.Get("work").([]any))
	if err != nil {
		return nil, err
	}
	sightings, err := sightings(d.Get("sightings").([]any), e.Now())
	if err != nil {
		return nil, err
	}
	etag, err := e.Report(ctx, engine.Report{
		Workload: r.Workload, Instance: r.Instance, Secret: key.NewValue(r.Secret), Etag: r.Etag, Healthy: *r.Healthy, Reason: r.Reason,
		Last: r.Last, Work: work, Sightings: sightings,
	})
	if err != nil {
		return nil, err
	}
	if r.ExtendLease {
		return b.extend(e, r)
	}
	return answer(api.Reported{Accepted: true, Etag: etag}), nil
}

// extend answers a report that extends its instance's lease.
func (b *backend) extend(e *engine.Engine, r api.ReportRequest) (*logical.Response, error) {
	extended, err := e.Extend(r.Workload, r.Instance, key.NewValue(r.Secret), b.longestLease())
	if err != nil {
		return nil, err
	}
	return answer(api.Reported{Accepted: true, Etag: extended.Etag, LeaseDuration: inSeconds(extended.Lease)}), nil
}

func (b *backend) pathLeave() *framework.Path {
	return &framework.Path{
		Pattern: "leave/" + framework.GenericNameRegex("workload"),
		Fields:  requestFields(api.LeaveRequest{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.lenient(b.leave, nil, "leave", "workload", "Remove an instance that has ended."),
		},
		HelpSynopsis: "For sidecars: an instance that has ended takes its leave.",
		HelpDescription: strings.TrimSpace(`
The instance no longer counts as live, and rotations do not wait for it. It is believed only with the instance_secret that
the instance's newest read of hyvve/creds returned, so that nobody removes another instance.
`),
	}
}

func (b *backend) leave(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.LeaveRequest](d)
	if r.Instance == "" || r.Secret == "" {
		return nil, rotation.Refusef("instance or instance_secret is missing; both come with a read of hyvve/creds/%s instance=…", r.Workload)
	}
	return nil, e.Leave(ctx, r.Workload, r.Instance, key.NewValue(r.Secret))
}

// workReports reads a list of objects, or of objects as JSON text, which is how the command line returns them.
func workReports(list []any) ([]workload.WorkReport, error) {
	var reports []workload.WorkReport
	for _, item := range list {
		data, err := json.Marshal(item)
		if text, ok := item.(string); ok {
			data, err = []byte(text), nil
		}
		var report workload.WorkReport
		if err == nil {
			err = json.Unmarshal(data, &report)
		}
		if err != nil || report.ID == "" {
			return nil, rotation.Refusef("work: each entry must be an object with an id, and done, error or columns")
		}
		reports = append(reports, report)
	}
	return reports, nil
}

// longestAgo is how many seconds ago a client may have been seen: ten years.
const longestAgo = 10 * 365 * 24 * 3600

// sightings reads a list of objects, or of objects as JSON text. Their age is counted from when the report came.
func sightings(list []any, now time.Time) ([]workload.Sighting, error) {
	var all []workload.Sighting
	for _, item := range list {
		data, err := json.Marshal(item)
		if text, ok := item.(string); ok {
			data, err = []byte(text), nil
		}
		var s api.Sighting
		if err == nil {
			err = json.Unmarshal(data, &s)
		}
		if err != nil || s.LastSeen < 0 || s.LastSeen > longestAgo {
			return nil, rotation.Refusef("sightings: each entry must be an object with env, version, count, last_seen (in seconds ago) and from, an address")
		}
		all = append(all, workload.Sighting{
			Env: s.Env, Version: s.Version, Count: s.Count, From: s.From, Last: now.Add(-time.Duration(s.LastSeen * float64(time.Second))).UTC(),
		})
	}
	return all, untrusted.CheckSightings(all)
}
