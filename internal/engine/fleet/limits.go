// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Names of the limits of instances, as they are configured.
const (
	limitWorkload = "max_instances"
	limitLogin    = "max_instances_per_login"
)

// crowdAge is for how long a limit that was hit is shown.
const crowdAge = 24 * time.Hour

// CheckRoom refuses a new instance where its workload or its login has as many as it may have.
func (f *Fleet) CheckRoom(w workload.Workload, i workload.Instance, mostOfLogin int, now time.Time) error {
	limit, most, remedy := limitWorkload, w.MostInstances(), "vault write hyvve/workloads/"+w.Name+" max_instances=…"
	who := fmt.Sprintf("workload %s has %d instances", w.Name, most)
	if len(f.ids) < most {
		limit, most, remedy = limitLogin, mostOfLogin, "vault write hyvve/config max_instances_per_login=…"
		who = fmt.Sprintf("this login (%s) has %d instances of workload %s", i.Login.Name, most, w.Name)
		if most == 0 || f.logins[i.Login.Accessor] < most {
			return nil
		}
	}
	f.crowd.Limit, f.crowd.Most, f.crowd.Last, f.crowd.Login = limit, most, now.UTC(), i.Login.Name
	f.crowd.Refused++
	return rotation.Refusef(
		"%s, and %s is %d; nothing was stored. Read under a name that is there already (instance=), wait until leases have ended, remove what has ended with vault delete hyvve/workloads/%s/instances/NAME, or raise the limit with %s",
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
