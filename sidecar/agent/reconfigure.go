// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"reflect"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// change is another configuration, and a client of its Vault.
type change struct {
	config Config
	vault  *login.Connection
}

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
	a.config, a.vault, a.engine = c.config, c.vault, client.New(c.vault.Vault, c.config.Vault.Mount)
	a.prepareReload()
	a.prepareHealth()
	a.jobs = newJobs(a.reencryptor())
}

// identity is what makes a configuration that of another instance.
type identity struct{ workload, instance, mount, namespace string }

func identityOf(c Config) identity {
	return identity{c.Workload, c.Instance, c.Vault.Mount, c.Vault.Namespace}
}

// adopt loads another configuration. What it renders that is there already is not written again, and what changes
// is reloaded. Files that it renders no more stay.
func (a *Agent) adopt() machine.Event {
	another := a.state.Life == machine.Arriving
	a.jobs.stop()
	a.take(a.coming)
	if another {
		a.before, a.copies = a.bundle, copies{} // of the other instance nothing stays but what is to be masked
		a.loadSecret()
	}
	a.sayInClear()
	pending, err := a.tidy()
	if err != nil {
		a.log.Warn("what an earlier run has left beside the files stays", "error", err)
	}
	a.copies.kept, a.copies.etag, a.onDisk = time.Time{}, "", nil // places may be others
	a.board.Update(func(s *status.State) {
		first := newBoard(a.config, nil).State()
		s.Workload, s.Instance, s.Rendered, s.Vault = first.Workload, first.Instance, first.Rendered, first.Vault
		s.Destinations, s.Rollout = nil, nil
		if another {
			s.Etag, s.Keys = "", nil
		}
	})
	a.log.Info("configuration taken", "workload", a.config.Workload, "instance", a.config.Instance)
	return machine.Event{Kind: machine.Adopted, Settings: a.settings(), Reload: pending}
}
