// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// change is another configuration, and a client of its Vault.
type change struct {
	config Config
	vault  *login.Connection
}

// errReconfigured ends a session of Vault, so that the next one is by the new configuration.
var errReconfigured = errors.New("the configuration is another one")

// reconfigure has the loop go on with another configuration, which is changeable to, as soon as it has ended what it is at.
// It is called beside Run, by one goroutine.
func (a *Agent) reconfigure(c Config) error {
	v, err := connect(*c.Vault)
	if err != nil {
		return err
	}
	select { // the newest counts
	case <-a.next:
	default:
	}
	a.next <- change{c, v}
	return nil
}

// changeable refuses what a running sidecar cannot change without a moment in which it does not serve.
func (c Config) changeable(to Config) error {
	for _, part := range []struct {
		name string
		same bool
	}{
		{"proxies, and where their state is,", reflect.DeepEqual(c.Listeners, to.Listeners)},
		{"status block, and where its socket is,", reflect.DeepEqual(c.Status, to.Status) && c.Socket == to.Socket},
		{"choice between a vault block and a watch block", (c.Watch == nil) == (to.Watch == nil)},
		{"exec block", c.Exec == nil && to.Exec == nil},
	} {
		if !part.same {
			return fmt.Errorf("the %s cannot change while the sidecar runs; restart it for that", part.name)
		}
	}
	return nil
}

// take sets all that comes from the configuration.
func (a *Agent) take(c change) {
	if a.method == nil || c.config.Vault.Auth != a.config.Vault.Auth {
		a.method = login.New(c.config.Vault.Auth) // the one before may know a secret id that can be unwrapped but once
	}
	a.config, a.vault, a.engine, a.stale = c.config, c.vault, client.New(c.vault.Vault, c.config.Vault.Mount), true
	a.prepareReload()
	a.prepareHealth()
	a.jobs = newJobs(a.reencryptor())
	schedule(a.nextLook, 0)
	if len(a.config.Destinations) > 0 {
		schedule(a.nextLook, a.config.LookEvery)
	}
}

// adopt goes over to another configuration. What it renders that is there already is not written again, and what changes
// is reloaded. Files that it renders no more stay.
func (a *Agent) adopt(c change) {
	type identity struct{ workload, instance, mount, namespace string }
	of := func(c Config) identity { return identity{c.Workload, c.Instance, c.Vault.Mount, c.Vault.Namespace} }
	another := of(c.config) != of(a.config)
	if another { // the next read does not take this one's place
		a.leave()
		a.forget()
	}
	a.jobs.stop()
	a.take(c)
	if another {
		a.loadSecret()
	}
	a.sayInClear()
	if err := a.tidy(); err != nil {
		a.log.Warn("what an earlier run has left beside the files stays", "error", err)
	}
	a.rendered, a.faults = "", 0
	a.owed = a.owed && a.config.Reloader != nil
	a.copies.kept, a.copies.etag, a.placesKnown = time.Time{}, "", false // places may be others
	a.board.Update(func(s *status.State) {
		first := newBoard(a.config, nil).State()
		s.Workload, s.Instance, s.Rendered, s.Vault = first.Workload, first.Instance, first.Rendered, first.Vault
		s.Destinations, s.Rollout = nil, nil
		if another {
			s.Etag, s.Keys = "", nil
		}
	})
	a.log.Info("configuration taken", "workload", a.config.Workload, "instance", a.config.Instance)
}

// forget leaves nothing of an instance to the next one, but what is to be masked.
func (a *Agent) forget() {
	a.have, a.before, a.copies = false, a.bundle, copies{begun: time.Now()}
	a.loaded, a.judged, a.healthy, a.reason = "", false, false, ""
	for _, t := range []*time.Timer{a.retry, a.nextCheck, a.leaseAge} {
		schedule(t, 0)
	}
}
