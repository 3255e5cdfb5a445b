// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

func (b *backend) pathsStatus() []*framework.Path {
	return []*framework.Path{{
		Pattern: "status",
		Fields:  requestFields(api.StatusRequest{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: b.operation(b.readStatus, oneOf{api.StatusLines{}, api.Status{}}, "read", "status", "Read every key with age, next rotation and what blocks."),
		},
		HelpSynopsis: "Every key with age, next rotation, and what blocks.",
		HelpDescription: strings.TrimSpace(`
One line a key: its current version and age, the rotation that runs and what it waits for, and when it rotates by itself. What
the last check of its server found wrong follows PROBLEM (hyvve/config look_every= sets how often that is; look again and mend
it with hyvve/keys/NAME/reconcile); who still tries a retired version follows WARNING; what else is valid at the server, such
as a password that Vault does not know, follows NOTE. What its newest rotation has cut in the last day follows WARNING, too, and so
does who has presented a retired version to a proxy, until hyvve/keys/NAME/acknowledge clears it. A line of a workload says that reads
were refused in the last day, because it or a login had as many instances as it may have, that two processes use the name of one
instance, that instances are locked out, since they run with a retired version, or that their sidecars have stopped beside their
processes. What has failed twelve times in a row is an orphan: it is tried once an hour, and somebody should look.

    vault read hyvve/status
    vault read hyvve/status busy=true
    vault read -format=json hyvve/status detailed=true
`),
	}}
}

func (b *backend) readStatus(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.StatusRequest](d)
	lines, all := map[string]any{}, api.Status{Keys: map[string]api.KeyStatus{}, LimitsHit: map[string]string{}, Conflicts: map[string][]string{}, Servers: map[string][]string{}, LockedOut: []api.LockedOut{}, Leaving: []api.Leaving{}}
	for _, s := range e.Status() {
		if r.Busy && s.Rotation == nil && s.Waits == "" && len(s.Problems) == 0 && s.Refused == "" && len(s.Notes) == 0 && s.Lapse == "" && s.Cut == "" && s.Trips == "" && len(s.Key.Undeleted()) == 0 {
			continue
		}
		lines[s.Key.Name] = statusLine(s)
		all.Keys[s.Key.Name] = statusFields(s)
	}
	for _, name := range e.WorkloadNames() {
		var warnings []string
		if crowd, ok := e.Crowded(name); ok {
			all.LimitsHit[name] = crowd.String()
			warnings = append(warnings, "WARNING: "+crowd.String())
		}
		if conflicts := e.NameConflicts(name); len(conflicts) > 0 {
			all.Conflicts[name] = conflicts
			warnings = append(warnings, "WARNING: "+conflicts[0])
			if more := len(conflicts) - 1; more > 0 {
				warnings = append(warnings, fmt.Sprintf("and so are %d more names: vault read hyvve/workloads/%s", more, name))
			}
		}
		if out := e.LockedOut(name); len(out) > 0 {
			for _, o := range out {
				all.LockedOut = append(all.LockedOut, api.LockedOut{Workload: name, Instance: o.Instance, Text: o.Text, Remedy: o.Remedy()})
			}
			warnings = append(warnings, lockedOutLine(out))
		}
		if left := e.StoppedSidecars(name); len(left) > 0 {
			for _, i := range left {
				all.Leaving = append(all.Leaving, api.Leaving{
					Workload: name, Instance: i.ID, Since: api.Time{Time: i.Leaving.At}, Until: api.Time{Time: i.Leaving.Until}, Text: i.Text,
				})
			}
			warnings = append(warnings, leavingLine(left))
		}
		if len(warnings) > 0 {
			lines["workload "+name] = strings.Join(warnings, "; ")
		}
	}
	for _, name := range e.ConnectionNames() {
		if problems := e.ConnectionHealth(name).Texts(); len(problems) > 0 {
			all.Servers[name] = problems
			lines["connection "+name] = "PROBLEM: " + strings.Join(problems, "; ")
		}
	}
	if r.Detailed {
		return answer(all), nil
	}
	if len(lines) == 0 {
		lines["none"] = "no key is defined; define the platform's with: vault write hyvve/presets/hyvve"
		if r.Busy {
			lines["none"] = "no rotation runs, and nothing is wrong"
		}
	}
	api.Wrap(lines)
	return &logical.Response{Data: lines}, nil
}

// lockedOutLine says who of a workload is locked out, and what to do.
func lockedOutLine(all []engine.LockedOut) string {
	text := fmt.Sprintf("WARNING: locked out: %s, which %s", all[0].Instance, all[0].Text)
	if more := len(all) - 1; more > 0 {
		text += fmt.Sprintf(", and %d more: vault read hyvve/workloads/%s", more, all[0].Workload)
	}
	return text + "; " + all[0].Remedy()
}

// leavingLine says whose sidecars of a workload have stopped beside their processes, and what to do.
func leavingLine(all []engine.Stopped) string {
	text := "WARNING: " + all[0].ID + ": " + all[0].Text
	if more := len(all) - 1; more > 0 {
		text += fmt.Sprintf("; and %d more: vault read hyvve/workloads/%s", more, all[0].Workload)
	}
	return text
}

func age(k key.Key) (version int, old time.Duration) {
	current, ok := k.Current()
	if !ok {
		return 0, 0
	}
	return current.Number, time.Since(current.Created).Round(time.Second)
}

func statusLine(s engine.KeyStatus) string {
	version, old := age(s.Key)
	line := "no version yet"
	if version > 0 {
		line = fmt.Sprintf("version %d, %s old", version, duration.Text(old))
	}
	if s.Rotation != nil {
		line += fmt.Sprintf("; %s (rotation %s)", strings.TrimSuffix(string(s.Rotation.State)+" "+string(s.Rotation.Step), " "), s.Rotation.ID)
	}
	if s.Orphan {
		line += "; ORPHAN, it will not mend by waiting"
	}
	if s.Waits != "" {
		line += "; waits: " + s.Waits
	}
	if len(s.Problems) > 0 {
		line += "; PROBLEM: " + strings.Join(s.Problems, "; ")
	}
	if s.Refused != "" {
		line += "; WARNING: " + s.Refused
	}
	if s.Cut != "" {
		line += "; WARNING: " + s.Cut
	}
	if s.Trips != "" {
		line += "; WARNING: " + s.Trips
	}
	if text := quarantine(s.Key); text != "" {
		line += "; " + text
	}
	if s.Lapse != "" {
		line += "; WARNING: an undeleted version could not be retired: " + s.Lapse
	}
	if len(s.Notes) > 0 {
		line += "; NOTE: " + strings.Join(s.Notes, "; ")
	}
	if s.Rotation == nil && !s.Due.IsZero() {
		line += "; rotates at " + s.Due.UTC().Format(time.RFC3339)
	}
	return line
}

// quarantine says which versions of a key are undeleted, and which is retained longest.
func quarantine(k key.Key) string {
	var parts []string
	for _, number := range k.Undeleted() {
		v, _ := k.Version(number)
		parts = append(parts, fmt.Sprintf("version %d is accepted again (undeleted) %s", number, v.UndeletedText()))
	}
	if retained := k.Retained(); len(retained) > 0 {
		v, _ := k.Version(retained[0])
		text := fmt.Sprintf("version %d retained until %s", v.Number, v.Until.UTC().Format(time.RFC3339))
		if more := len(retained) - 1; more > 0 {
			text += fmt.Sprintf(" (and %d older)", more)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// ends returns the ends of versions, by number; empty: a rotation ends it.
func ends(k key.Key, numbers []int) map[string]api.Time {
	all := map[string]api.Time{}
	for _, number := range numbers {
		v, _ := k.Version(number)
		all[fmt.Sprint(number)] = api.Time{Time: v.Until}
	}
	return all
}

func statusFields(s engine.KeyStatus) api.KeyStatus {
	version, old := age(s.Key)
	fields := api.KeyStatus{
		Env: s.Key.Env, Kind: s.Key.Kind, CurrentVersion: version, Age: api.SecondsOf(old), State: "idle", WaitsFor: s.Waits, Orphan: s.Orphan,
		NextRotation: api.Time{Time: s.Due}, Problems: append([]string{}, s.Problems...), RefusedLogins: s.Refused, Notes: append([]string{}, s.Notes...),
		Retained: ends(s.Key, s.Key.Retained()), Undeleted: ends(s.Key, s.Key.Undeleted()), RetireFault: s.Lapse, Cut: s.Cut, Tripped: s.Trips,
	}
	if s.Rotation != nil {
		fields.State, fields.Step, fields.Rotation = string(s.Rotation.State), string(s.Rotation.Step), s.Rotation.ID
		fields.Paused = s.Rotation.Paused != nil
	}
	return fields
}

func (b *backend) pathsConfig() []*framework.Path {
	return []*framework.Path{{
		Pattern: "config",
		Fields:  withDetail(requestFields(api.ConfigRequest{})),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   b.operation(b.readConfig, api.Config{}, "read", "configuration", "Read the mount-wide defaults."),
			logical.UpdateOperation: b.write(b.writeConfig, b.configAttempt, api.Config{}, "write", "configuration", "Change the mount-wide defaults; those not given stay."),
		},
		HelpSynopsis:    "Mount-wide defaults: leases, soak time, deadlines, what to do about failures, how much journal to keep.",
		HelpDescription: "Changes hold for leases and rotations that begin after them.\n\n    vault write hyvve/config lease_ttl=5m soak=30s",
	}}
}

func (b *backend) readConfig(_ context.Context, e *engine.Engine, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	c := e.Config()
	var warnings []string
	if f := e.Floor(); c.JournalEntries != 0 && c.JournalEntries < f.Entries || c.JournalAge != 0 && c.JournalAge < f.Age {
		warnings = append(warnings, "journal_max_entries or journal_max_age is below the floor of hyvve/journal/config: the floor holds.")
	}
	return forPeople(d, api.Config{ConfigRequest: api.ConfigRequest{
		LeaseTTL: inSeconds(c.LeaseTTL), TakeoverAfter: inSeconds(c.TakeoverAfter), MaxInstancesPerLogin: &c.LoginInstances,
		Soak: inSeconds(c.Soak), Observe: inSeconds(c.Observe), LookEvery: inSeconds(c.LookEvery), Deadline: inSeconds(c.Deadline),
		OnFailure: &c.OnFailure, Confirm: &c.Confirm, ConfirmBy: &c.ConfirmBy, CompromisedDeadline: inSeconds(c.CutAfter),
		Retain: inSeconds(c.Retain), RetainRows: inSeconds(c.RetainRows), TripwireRetention: inSeconds(c.Tripwires), JournalMaxEntries: &c.JournalEntries, JournalMaxAge: inSeconds(c.JournalAge),
	}}, warnings...), nil
}

func (b *backend) writeConfig(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	defer b.definitions.Lock("config")()
	if err := e.PutConfig(ctx, b.config(e, d), caller(req)); err != nil {
		return nil, err
	}
	resp, err := b.readConfig(ctx, e, req, d)
	if resp != nil {
		for _, w := range e.ConfigRisks(written(d)) {
			resp.AddWarning(w)
		}
	}
	return resp, err
}

// config is what is stored with what is written over it.
func (b *backend) config(e *engine.Engine, d *framework.FieldData) catalog.Config {
	c, r := e.Config(), request[api.ConfigRequest](d)
	setSeconds(&c.LeaseTTL, r.LeaseTTL)
	setSeconds(&c.TakeoverAfter, r.TakeoverAfter)
	set(&c.LoginInstances, r.MaxInstancesPerLogin)
	setSeconds(&c.Soak, r.Soak)
	setSeconds(&c.Observe, r.Observe)
	setSeconds(&c.LookEvery, r.LookEvery)
	setSeconds(&c.Deadline, r.Deadline)
	set(&c.OnFailure, r.OnFailure)
	set(&c.Confirm, r.Confirm)
	set(&c.ConfirmBy, r.ConfirmBy)
	setSeconds(&c.CutAfter, r.CompromisedDeadline)
	setSeconds(&c.Retain, r.Retain)
	setSeconds(&c.RetainRows, r.RetainRows)
	setSeconds(&c.Tripwires, r.TripwireRetention)
	set(&c.JournalEntries, r.JournalMaxEntries)
	setSeconds(&c.JournalAge, r.JournalMaxAge)
	return c
}
