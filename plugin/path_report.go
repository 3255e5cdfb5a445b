// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func (b *backend) pathsReport() []*framework.Path {
	return []*framework.Path{b.pathLeave(), {
		Pattern: "report/" + framework.GenericNameRegex("workload"),
		Fields: map[string]*framework.FieldSchema{
			"workload":        {Type: framework.TypeString, Required: true, Description: "Name of the workload."},
			"instance":        {Type: framework.TypeString, Required: true, Description: "Name of the instance."},
			"instance_secret": {Type: framework.TypeString, Required: true, Description: "What the instance's newest read of hyvve/creds gave.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
			"etag":            {Type: framework.TypeString, Description: "Etag of the bundle that the workload has loaded; empty if none."},
			"healthy":         {Type: framework.TypeBool, Description: "Whether the workload is healthy with it. Left out: nothing is reported, and extend_lease=true is all that is asked."},
			"extend_lease":    {Type: framework.TypeBool, Description: "Let the instance count as live for another lease from now on, whatever becomes of the lease of its read."},
			"last":            {Type: framework.TypeBool, Description: "The process ends now, and its instance counts as live until its lease ends: the next process may read under its name at once, with another token of the same entity, too."},
			"reason":          {Type: framework.TypeString, Description: "Why it is not. Never put a secret here."},
			"work":            {Type: framework.TypeSlice, Description: "Reports on re-encryption: a list of {id, done, error, columns}."},
			"sightings":       {Type: framework.TypeSlice, Description: "Accepted versions other than the newest that clients presented to the instance's proxy: a list of {env, version, count, last_seen, from}; last_seen in seconds ago, from the address of the last client."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.lenient(b.report, "report", "instance", "Say what an instance has loaded, and whether it is healthy."),
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
	if d.Get("instance").(string) == "" || d.Get("instance_secret").(string) == "" {
		return nil, rotation.Refusef("instance or instance_secret is missing; both come with a read of hyvve/creds/%s instance=…", d.Get("workload"))
	}
	extend := d.Get("extend_lease").(bool)
	if _, ok := d.GetOk("healthy"); !ok {
		if !extend {
			return nil, rotation.Refusef("healthy is missing; say true or false, or extend_lease=true for a sign of life alone")
		}
		return b.extend(e, d)
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
		Workload: d.Get("workload").(string),
		Instance: d.Get("instance").(string),
		Secret:   key.NewValue(d.Get("instance_secret").(string)),
		Etag:     d.Get("etag").(string),
		Healthy:  d.Get("healthy").(bool),
		Reason:   d.Get("reason").(string),
		Last:     d.Get("last").(bool),
		Work:     work,

		Sightings: sightings,
	})
	if err != nil {
		return nil, err
	}
	if extend {
		return b.extend(e, d)
	}
	return &logical.Response{Data: map[string]any{"accepted": true, "etag": etag}}, nil
}

// extend answers a report that extends its instance's lease.
func (b *backend) extend(e *engine.Engine, d *framework.FieldData) (*logical.Response, error) {
	secret := key.NewValue(d.Get("instance_secret").(string))
	extended, err := e.Extend(d.Get("workload").(string), d.Get("instance").(string), secret, b.longestLease())
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"accepted": true, "etag": extended.Etag, "lease_duration": int64(extended.Lease.Seconds()),
	}}, nil
}

func (b *backend) pathLeave() *framework.Path {
	return &framework.Path{
		Pattern: "leave/" + framework.GenericNameRegex("workload"),
		Fields: map[string]*framework.FieldSchema{
			"workload":        {Type: framework.TypeString, Required: true, Description: "Name of the workload."},
			"instance":        {Type: framework.TypeString, Required: true, Description: "Name of the instance."},
			"instance_secret": {Type: framework.TypeString, Required: true, Description: "What the instance's newest read of hyvve/creds gave.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.lenient(b.leave, "leave", "workload", "Remove an instance that has ended."),
		},
		HelpSynopsis: "For sidecars: an instance that has ended takes its leave.",
		HelpDescription: strings.TrimSpace(`
The instance no longer counts as live, and rotations do not wait for it. It is believed only with the instance_secret that
the instance's newest read of hyvve/creds returned, so that nobody removes another instance.
`),
	}
}

func (b *backend) leave(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name, id, secret := d.Get("workload").(string), d.Get("instance").(string), d.Get("instance_secret").(string)
	if id == "" || secret == "" {
		return nil, rotation.Refusef("instance or instance_secret is missing; both come with a read of hyvve/creds/%s instance=…", name)
	}
	return nil, e.Leave(ctx, name, id, key.NewValue(secret))
}

// workReports reads a list of objects, or of objects as JSON text, which is how the command line gives them.
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
		var s struct {
			workload.Sighting
			LastSeen float64 `json:"last_seen"` // seconds ago
		}
		if err == nil {
			err = json.Unmarshal(data, &s)
		}
		if err != nil || s.LastSeen < 0 || s.LastSeen > longestAgo {
			return nil, rotation.Refusef("sightings: each entry must be an object with env, version, count, last_seen (in seconds ago) and from, an address")
		}
		s.Last = now.Add(-time.Duration(s.LastSeen * float64(time.Second))).UTC()
		all = append(all, s.Sighting)
	}
	return all, engine.CheckSightings(all)
}
