// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// What is allowed and rarely meant.
const (
	shortLease    = 10 * time.Second // one slow answer of Vault, and instances count as gone
	longLease     = time.Hour
	shortDeadline = 30 * time.Second // a sidecar may need as long to hear of a change, and a workload to start
	longCut       = 10 * time.Minute
	shortObserve  = 5 * time.Second
	shortWindow   = 10 * time.Minute
	shortRows     = 7 * 24 * time.Hour
)

// risk is a setting that is allowed and rarely meant.
type risk struct {
	fields []string // of which one was written
	holds  bool
	text   string
}

// said are the texts of risks that hold and about which something was written.
func said(risks []risk, written func(field string) bool) []string {
	var all []string
	for _, r := range risks {
		if r.holds && slices.ContainsFunc(r.fields, written) {
			all = append(all, r.text)
		}
	}
	return all
}

// ConfigRisks are warnings about what a write has set of the configuration.
func (cat *Catalog) ConfigRisks(written func(field string) bool) []string {
	c := cat.Defaults
	all := said([]risk{
		{
			[]string{"lease_ttl"},
			c.LeaseTTL < shortLease,
			fmt.Sprintf("lease_ttl=%s: an instance counts as gone when Vault does not answer for so long, and a rotation may retire a version that it still uses. 5m is the default.", duration.Text(c.LeaseTTL)),
		},
		{
			[]string{"lease_ttl"},
			c.LeaseTTL > longLease,
			fmt.Sprintf("lease_ttl=%s: an instance that dies without a word holds up rotations for so long. 5m is the default.", duration.Text(c.LeaseTTL)),
		},
		{
			[]string{"soak", "observe"},
			c.Soak == 0 && c.Observe == 0,
			"soak=0s and observe=0s: the old version is retired as soon as all have loaded the new one. A client that logs in now and then, and a fault that shows late, are not noticed.",
		},
		{
			[]string{"retain"},
			c.Retain == 0,
			"retain=0s: the values of retired versions are erased at once. What turns out to need one cannot be helped: nothing brings it back.",
		},
		{
			[]string{"retain_rows"},
			c.RetainRows < shortRows,
			fmt.Sprintf("retain_rows=%s: rows from a backup that is older cannot be decrypted. Make it longer than backups are kept; 30d is the default.", duration.Text(c.RetainRows)),
		},
		{
			[]string{"look_every"},
			c.LookEvery == 0,
			"look_every=0s: servers are not checked between rotations. That one is down, or has forgotten a login, shows only when a rotation fails.",
		},
		{
			[]string{"deadline"},
			c.Deadline > 0 && c.Deadline < shortDeadline,
			fmt.Sprintf("deadline=%s: one slow restart of a workload is a failure of its rotation, which then does what on_failure=%s says.", duration.Text(c.Deadline), c.OnFailure),
		},
		{
			[]string{"compromised_deadline"},
			c.CutAfter < shortLease,
			fmt.Sprintf("compromised_deadline=%s: instances that need longer to load the new version are cut off. 1m is the default.", duration.Text(c.CutAfter)),
		},
		{
			[]string{"compromised_deadline"},
			c.CutAfter > longCut,
			fmt.Sprintf("compromised_deadline=%s: a leaked version stays accepted for so long in each step that does not follow. 1m is the default.", duration.Text(c.CutAfter)),
		},
	}, written)
	if !written("soak") && !written("observe") {
		return all
	}
	var short []string
	for _, k := range cat.Keys {
		if p := c.Effective(k.Policy); tooFrequent(p) {
			short = append(short, k.Name)
		}
	}
	if len(short) > 0 {
		slices.Sort(short)
		all = append(all, "rotation_period of these keys is shorter than soak and observe together, so that a rotation may still run when the next is due: "+strings.Join(short, ", "))
	}
	return all
}

// tooFrequent reports whether a rotation may still run when the next one is due.
func tooFrequent(p key.Policy) bool {
	return p.Period > 0 && !p.Disabled && p.Period < p.Soak+p.Observe
}

// KeyRisks are warnings about what a write has set of a key. next is when it rotates by itself; zero: it does not, or is rotating.
func (cat *Catalog) KeyRisks(k key.Key, next time.Time, written func(field string) bool) []string {
	p, retain := cat.Defaults.Effective(k.Policy), cat.Defaults.RetainOf(k)
	_, served := cat.KindOf(k).(kind.Server)
	automatic := p.Period > 0 || p.Schedule != ""
	all := said([]risk{
		{
			[]string{"rotation_period", "soak", "observe"},
			tooFrequent(p),
			fmt.Sprintf("rotation_period=%s is shorter than soak=%s and observe=%s together: a rotation may still run when the next is due.", duration.Text(p.Period), duration.Text(p.Soak), duration.Text(p.Observe)),
		},
		{
			[]string{"rotation_period"},
			p.Period > 0 && p.Period < cat.Defaults.LeaseTTL,
			fmt.Sprintf("rotation_period=%s is shorter than lease_ttl=%s: an instance that dies without a word holds up each rotation.", duration.Text(p.Period), duration.Text(cat.Defaults.LeaseTTL)),
		},
		{
			[]string{"rotation_window"},
			p.Window > 0 && p.Window < shortWindow,
			fmt.Sprintf("rotation_window=%s: if Vault, or what the rotation needs, is away for so long, it waits for the next time of rotation_schedule.", duration.Text(p.Window)),
		},
		{
			[]string{"rotation_period", "rotation_schedule", "disable_automated_rotation"},
			automatic && p.Disabled,
			"disable_automated_rotation=true: rotation_period and rotation_schedule start nothing.",
		},
		{
			[]string{"soak"},
			p.Soak == 0 && (!served || p.Observe == 0),
			"soak=0s: the old version is retired as soon as all have loaded the new one. A fault that shows late is not noticed.",
		},
		{
			[]string{"observe"},
			served && p.Observe < shortObserve && p.Soak < shortObserve,
			fmt.Sprintf("observe=%s: a client that logs in more rarely is not seen, and is locked out.", duration.Text(p.Observe)),
		},
		{
			[]string{"retain"},
			retain == 0,
			"retain=0s: the value of a retired version is erased at once, and nothing brings it back.",
		},
		{
			[]string{"retain", "protects"},
			retain > 0 && retain < shortRows && len(k.Protects) > 0,
			fmt.Sprintf("retain=%s: rows from a backup that is older cannot be decrypted. Make it longer than backups are kept.", duration.Text(retain)),
		},
		{
			[]string{"deadline"},
			p.Deadline > 0 && p.Deadline < shortDeadline,
			fmt.Sprintf("deadline=%s: one slow restart of a workload is a failure of the rotation, which then does what on_failure=%s says.", duration.Text(p.Deadline), p.OnFailure),
		},
		{
			[]string{"confirm", "confirm_by", "rotation_period", "rotation_schedule"},
			automatic && !p.Disabled && p.Confirm == rotation.ConfirmManual,
			"confirm=manual: it starts by itself, and then waits, with both versions accepted, until somebody confirms it. Look at hyvve/status, or let something look.",
		},
	}, written)
	if written("rotation_period") || written("rotation_schedule") || written("rotation_window") || written("disable_automated_rotation") {
		all = append(all, cat.startsSoon(k, next)...)
	}
	return all
}

// startsSoon says that a policy starts a rotation within moments, or does not start one that its period would have.
func (cat *Catalog) startsSoon(k key.Key, next time.Time) []string {
	current, ok := k.Current()
	now := cat.Now()
	switch {
	case !ok || next.IsZero():
		return nil
	case !next.After(now.Add(time.Minute)):
		return []string{"It rotates within a minute. To prevent that: vault write hyvve/keys/" + k.Name + " disable_automated_rotation=true"}
	case k.Policy.Period > 0 && current.Created.Add(k.Policy.Period).Before(now):
		return []string{fmt.Sprintf("Version %d is older than rotation_period already, which counts from now. To rotate it today: vault write hyvve/rotate key=%s", current.Number, k.Name)}
	}
	return nil
}
