// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// An instance belongs to the login of its first read. Another login may use its name:
//
//   - with the secret of its newest read: the same process has logged in again;
//   - at once, if both logins are of one entity, and the instance has said that its process, or its sidecar, ends;
//   - once nothing was heard of it for the configured time, if both logins are of one entity, or of none, and the instance
//     sends signs of life every few seconds, as sidecars do: it has died, and was started again under its name;
//   - otherwise when its lease has ended.
//
// Signs of life are its reports, which its secret proves, and whatever its own login asks under its name.

// Live is an instance as it stands now.
type Live struct {
	workload.Instance
	Heard     time.Duration // since its last sign of life
	Lease     time.Duration // until it no longer counts as live, if nothing is heard of it; negative: it is about to be removed
	FreeIn    time.Duration // until another login of the same entity may use its name; 0: now
	Heartbeat bool          // it sends signs of life every few seconds
}

// Live returns an instance as it stands now; false: there is none. takeover is how long nothing must have been heard of it
// before another login of its entity may use its name.
func (f *Fleet) Live(id string, takeover time.Duration) (Live, bool) {
	i, ok := f.Get(id)
	if !ok {
		return Live{}, false
	}
	now, l := f.uptime(), f.leases[id]
	until, _ := l.heldUntil(i.Login, i.Login, takeover)
	return Live{
		Instance: i, Heard: max(now-l.heard, 0), Lease: l.gone - now, FreeIn: max(until-now, 0), Heartbeat: l.heartbeat,
	}, true
}

// CheckLogin refuses to give an instance's name to another login. secret is that of an earlier read, where the reader has one.
func (f *Fleet) CheckLogin(i workload.Instance, login workload.Login, secret key.Value, takeover time.Duration, at time.Time) error {
	if !i.Login.Known() || i.Login.Same(login) || f.proves(i, secret) {
		return nil
	}
	now, l := f.uptime(), f.leases[i.ID]
	until, quiet := l.heldUntil(i.Login, login, takeover)
	when := "when its lease has ended, in %s at the earliest"
	if quiet {
		when = "in %s, if nothing is heard of it until then"
	}
	if until <= now {
		return nil
	}
	f.claim(i.ID, until)
	f.refusedName(i.ID, i.Login.Name, login.Name, at)
	two := ""
	if text := f.Conflict(i.ID); text != "" {
		two = "; " + text
	}
	return rotation.Refusef(
		"instance %s belongs to another login (%s), and was last heard of %s ago; this login may use the name "+when+
			"; to use it now, give the instance_secret of its newest read, or remove it with: vault delete hyvve/workloads/%s/instances/%s; or use another instance=%s",
		i.Name(), i.Login.Name, duration.Text(max(now-l.heard, 0).Round(time.Second)), duration.Text(upToSecond(until-now)), i.Workload, i.ID, two,
	)
}

// heldUntil returns when another login may use an instance's name, if nothing is heard of it; quiet: before its lease has
// ended.
func (l lease) heldUntil(own, other workload.Login, takeover time.Duration) (until time.Duration, quiet bool) {
	if l.released && own.Entity != "" && own.SameEntity(other) { // any token without an entity could come
		return l.heard, true
	}
	until = max(l.full, l.reported)
	if silent := l.heard + takeover; l.heartbeat && own.SameEntity(other) && silent < until {
		return silent, true
	}
	return until, false
}

// claim notes that another login was refused an instance's name until a time. That login may well be the instance itself,
// which has logged in again and lives: it counts until it had the time to come back.
func (f *Fleet) claim(id string, until time.Duration) {
	l := f.leases[id]
	l.claimed = max(l.claimed, until+claimTime)
	l.gone = max(l.gone, l.claimed)
	f.leases[id] = l
}

// upToSecond rounds up, so that a client that waits for so long is not refused for a fraction of a second.
func upToSecond(d time.Duration) time.Duration { return (d + time.Second - 1).Truncate(time.Second) }

// proves reports whether a secret is that of an instance's newest read, or of one that was not stored.
func (f *Fleet) proves(i workload.Instance, secret key.Value) bool {
	read := ReadOf(secret)
	if !secret.Equal(f.secrets.Secret(i.Name(), read)) {
		return false
	}
	return read.String() == i.Epoch || read.after(parseRead(i.Epoch))
}

// Reporter returns the instance whose secret a report has: that of its newest read, which proves that it lives.
func (f *Fleet) Reporter(workloadName, id string, secret key.Value, at time.Time) (workload.Instance, error) {
	i, ok := f.Get(id)
	if !ok || i.Anonymous {
		return i, rotation.Refusef("instance %q of workload %s is not known; read hyvve/creds/%s with instance= first", id, workloadName, workloadName)
	}
	read := ReadOf(secret)
	if !secret.Equal(f.secrets.Secret(i.Name(), read)) {
		return i, rotation.Refusef("instance_secret is not one of %s; read hyvve/creds/%s again", i.Name(), workloadName)
	}
	if i, ok = f.Heard(i, read.String()); !ok {
		if f.leases[id].used {
			f.oldSecret(id, i.Login.Name, at)
		}
		return i, rotation.Refusef("instance_secret of %s is not that of its newest read; read hyvve/creds/%s again", i.Name(), workloadName)
	}
	f.Alive(i.ID)
	f.answered(i.ID)
	return i, nil
}

// Names of the limits of instances, as they are configured.
const (
	limitWorkload = "max_instances"
	limitLogin    = "max_instances_per_login"
)

// crowdAge is for how long a limit that was hit is shown.
const crowdAge = 24 * time.Hour

// CheckRoom refuses a new instance where its workload or its login has as many as it may have.
func (f *Fleet) CheckRoom(w workload.Workload, i workload.Instance, maxOfLogin int, now time.Time) error {
	limit, most, remedy := limitWorkload, w.InstanceLimit(), "vault write hyvve/workloads/"+w.Name+" max_instances=…"
	who := fmt.Sprintf("workload %s has %d instances", w.Name, most)
	if len(f.ids) < most {
		limit, most, remedy = limitLogin, maxOfLogin, "vault write hyvve/config max_instances_per_login=…"
		who = fmt.Sprintf("this login (%s) has %d instances of workload %s", i.Login.Name, most, w.Name)
		if most == 0 || f.logins[i.Login.Accessor] < most {
			return nil
		}
	}
	f.crowd.Limit, f.crowd.Most, f.crowd.Last, f.crowd.Login = limit, most, now.UTC(), i.Login.Name
	f.crowd.Refused++
	return rotation.Refusef(
		"%s, and %s is %d; nothing was stored. Read under a name that is there already (instance=), wait until leases have ended, remove what has ended (vault list hyvve/workloads/%s/instances), or raise the limit with %s",
		who, limit, most, w.Name, remedy,
	)
}

// Crowded returns that the fleet has hit a limit of instances lately; false: it has not.
func (f *Fleet) Crowded(now time.Time) (Crowd, bool) {
	if f == nil || f.crowd.Refused == 0 || now.Sub(f.crowd.Last) > crowdAge {
		return Crowd{}, false
	}
	return f.crowd, true
}
