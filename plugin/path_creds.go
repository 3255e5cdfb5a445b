// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// secretTypeBundle names the leases of creds/ to Vault.
const secretTypeBundle = "bundle"

func (b *backend) pathsCreds() []*framework.Path {
	return []*framework.Path{{
		Pattern: "creds/" + framework.GenericNameRegex("workload"),
		Fields:  requestFields(api.CredsRequest{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   b.operation(b.readCreds, api.Creds{}, "read", "credentials", "Read what one instance should hold now, as a lease."),
			logical.UpdateOperation: b.lenient(b.readCreds, api.Creds{}, "read", "credentials-as-instance", "Read what one instance should hold now, as a lease; for sidecars."),
		},
		HelpSynopsis: "What one instance of a workload should hold now: values, accept-lists, versions, as a lease.",
		HelpDescription: strings.TrimSpace(`
Read by a sidecar for its instance, or by Vault Agent, or by hand.

    vault read hyvve/creds/api instance=api-7f9c
    vault read hyvve/creds/api instance=api-7f9c one_line=none

values        by environment name: to present, or to encrypt with
accepts       by environment name: to verify against, newest first
versions      by environment name
created_times by environment name: when that version was made
etag          changes when any of this should change; give it to hyvve/watch
instance_secret   proves this instance's reports, until its next read
work          re-encryption that is asked of this instance

The name belongs to the login that reads it first. Another login may read under it with instance_secret of the newest read, in a
write, as sidecars do; or once nothing was heard of the instance for takeover_after of hyvve/config, if both logins are of the
same entity and the instance is a sidecar's; otherwise when its lease has ended.

    vault write hyvve/creds/api instance=api-7f9c instance_secret=-

The lease is the instance: while it is outstanding, the instance counts as live, and an old version in it as used.
Renewal is refused once the instance should hold another bundle: read again. Revocation removes the instance.
`),
	}}
}

func (b *backend) secretBundle() *framework.Secret {
	return &framework.Secret{
		Type: secretTypeBundle,
		Fields: map[string]*framework.FieldSchema{
			"values":  {Type: framework.TypeMap, Description: "Values by environment name."},
			"accepts": {Type: framework.TypeMap, Description: "Accept-lists by environment name."},
		},
		Renew:  b.onLease(b.renewCreds),
		Revoke: b.onLease(b.revokeCreds),
	}
}

func (b *backend) readCreds(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.CredsRequest](d)
	reader := fleet.Reader{Workload: r.Workload, Instance: r.Instance, Token: token(req)}
	if req.Operation == logical.UpdateOperation {
		reader.Heartbeat = true
		reader.Secret = key.NewValue(r.Secret)
		reader.Pod, reader.Node = r.Pod, r.Node
	} else if r.Secret != "" {
		return nil, rotation.Refusef("instance_secret is not taken in a read, whose URL is in logs; give it in a write: vault write hyvve/creds/%s instance=… instance_secret=-", r.Workload)
	}
	if len(r.OneLine) > 0 && !slices.Contains(r.OneLine, "all") { // empty says nothing: all
		reader.Multiline = true
		reader.OneLine = slices.DeleteFunc(slices.Clone(r.OneLine), func(s string) bool { return s == "none" })
		slices.Sort(reader.OneLine)
	}
	reading, err := e.Read(ctx, reader, b.longestLease())
	if err != nil {
		return nil, err
	}
	resp := b.Secret(secretTypeBundle).Response(api.Data(bundleData(reading)), map[string]any{
		"workload": r.Workload, "instance": reading.Instance, "epoch": reading.Epoch,
	})
	resp.Secret.Renewable = true
	resp.Secret.TTL = reading.TTL
	for _, env := range reading.Missing {
		resp.AddWarning(fmt.Sprintf("%s has no version yet and is left out; import its value with vault write hyvve/keys/… value=-", env))
	}
	return resp, nil
}

func bundleData(reading engine.Reading) api.Creds {
	b := reading.Bundle
	c := api.Creds{
		Bundle: api.Bundle{
			Values: map[string]string{}, Accepts: map[string][]string{}, Versions: b.Versions, AcceptVersions: b.AcceptVersions, Etag: b.Holding.Etag,
		},
		Created: map[string]string{}, Work: append([]workload.Work{}, b.Work...), Tripwires: tripwires(b.Tripwires), Instance: reading.Instance, Secret: reading.Secret.Reveal(),
	}
	for env, v := range b.Values {
		c.Values[env] = v.Reveal()
	}
	for env, list := range b.Accepts {
		c.Accepts[env] = reveal(list)
	}
	for env, at := range b.Created {
		c.Created[env] = at.UTC().Format(time.RFC3339)
	}
	return c
}

func reveal(list []key.Value) []string {
	all := make([]string, 0, len(list))
	for _, v := range list {
		all = append(all, v.Reveal())
	}
	return all
}

// lease is what a bundle's lease keeps of its read.
type lease struct{ workload, instance, epoch string }

type leaseHandler func(ctx context.Context, e *engine.Engine, req *logical.Request, l lease) (*logical.Response, error)

func (b *backend) onLease(h leaseHandler) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
		e, err := b.open(ctx, req.Storage)
		if err != nil {
			return nil, err
		}
		if !e.Writes() {
			return nil, logical.ErrReadOnly
		}
		var l lease
		for name, into := range map[string]*string{"workload": &l.workload, "instance": &l.instance, "epoch": &l.epoch} {
			text, ok := req.Secret.InternalData[name].(string)
			if !ok {
				return nil, fmt.Errorf("the lease does not say its %s", name)
			}
			*into = text
		}
		resp, err := h(ctx, e, req, l)
		var refused *rotation.Refused
		if errors.As(err, &refused) {
			return logical.ErrorResponse(refused.Error()), nil
		}
		return resp, err
	}
}

func (b *backend) renewCreds(_ context.Context, e *engine.Engine, req *logical.Request, l lease) (*logical.Response, error) {
	// What CalculateTTL leaves of the longest time that Vault lets a lease live, the engine must know, too: it tells a lease
	// that ran out from one that was revoked.
	limit, warnings, err := framework.CalculateTTL(b.System(), 0, b.System().MaxLeaseTTL(), 0, 0, 0, req.Secret.IssueTime)
	if err != nil {
		return nil, err
	}
	ttl, err := e.Renew(l.workload, l.instance, l.epoch, limit)
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Secret: req.Secret, Warnings: warnings}
	resp.Secret.TTL = ttl
	return resp, nil
}

func (b *backend) revokeCreds(ctx context.Context, e *engine.Engine, _ *logical.Request, l lease) (*logical.Response, error) {
	return nil, e.Revoke(ctx, l.workload, l.instance, l.epoch)
}

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

With leaving=true the sidecar stops and its workload may run on. The instance counts as live for one more lease, and proves nothing
until it reads hyvve/creds again, under the same name.
`),
	}}
}

func (b *backend) report(ctx context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.ReportRequest](d)
	if r.Instance == "" || r.Secret == "" {
		return nil, rotation.Refusef("instance or instance_secret is missing; both come with a read of hyvve/creds/%s instance=…", r.Workload)
	}
	if r.Leaving {
		extended, err := e.Leaving(ctx, r.Workload, r.Instance, key.NewValue(r.Secret), b.longestLease())
		if err != nil {
			return nil, err
		}
		return answer(api.Reported{Accepted: true, Etag: extended.Etag, LeaseDuration: inSeconds(extended.Lease)}), nil
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
	trips, err := trips(d.Get("tripped").([]any), e.Now())
	if err != nil {
		return nil, err
	}
	proof, err := workload.ParseProof(r.Proof)
	if err != nil {
		return nil, rotation.Refusef("proof: %w", err)
	}
	etag, err := e.Report(ctx, engine.Report{
		Workload: r.Workload, Instance: r.Instance, Secret: key.NewValue(r.Secret), Etag: r.Etag, Proof: proof, Healthy: *r.Healthy, Reason: r.Reason,
		Last: r.Last, Work: work, Sightings: sightings, Trips: trips,
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

// decoded reads an entry of a list: an object, or an object as JSON text, which is how the command line returns it.
func decoded[T any](item any) (entry T, err error) {
	data, err := json.Marshal(item)
	if text, ok := item.(string); ok {
		data, err = []byte(text), nil
	}
	if err == nil {
		err = json.Unmarshal(data, &entry)
	}
	return entry, err
}

// before returns the moment so many seconds before another, in UTC.
func before(now time.Time, seconds float64) time.Time {
	return now.Add(-time.Duration(seconds * float64(time.Second))).UTC()
}

// workReports reads the entries of work.
func workReports(list []any) ([]workload.WorkReport, error) {
	var reports []workload.WorkReport
	for _, item := range list {
		report, err := decoded[workload.WorkReport](item)
		if err != nil || report.ID == "" {
			return nil, rotation.Refusef("work: each entry must be an object with an id, and done, error or columns")
		}
		reports = append(reports, report)
	}
	return reports, nil
}

// longestAgo is how many seconds ago a client may have been seen: ten years.
const longestAgo = float64(workload.LongestAgo / time.Second)

// sightings reads the entries of sightings. Their age is counted from when the report came.
func sightings(list []any, now time.Time) ([]workload.Sighting, error) {
	var all []workload.Sighting
	for _, item := range list {
		s, err := decoded[api.Sighting](item)
		if err != nil || s.LastSeen < 0 || s.LastSeen > longestAgo {
			return nil, rotation.Refusef("sightings: each entry must be an object with env, version, count, last_seen (in seconds ago) and from, an address")
		}
		all = append(all, workload.Sighting{
			Env: s.Env, Version: s.Version, Count: s.Count, From: s.From, Last: before(now, s.LastSeen),
		})
	}
	return all, untrusted.CheckSightings(all)
}

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
		Conflict: e.NameConflict(r.Workload, r.Instance),
	}), nil
}
