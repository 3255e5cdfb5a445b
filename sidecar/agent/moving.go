// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// arrival is what was read for the instance of another configuration before that was taken. The first login and the first read
// under that configuration return it. The zero value is none.
type arrival struct {
	vault  *login.Connection // that has the token
	token  *login.Token
	bundle *client.Bundle
	at     time.Time // of the read
}

// takeToken returns the token, once, if it has time left.
func (r *arrival) takeToken() (login.Token, bool) {
	t := r.token
	r.token = nil
	if t == nil {
		return login.Token{}, false
	}
	if !t.Ends.IsZero() {
		t.TTL = time.Until(t.Ends)
	}
	return *t, t.Ends.IsZero() || t.TTL > 0
}

// takeBundle returns the bundle, once, if most of its lease is left. Otherwise it stays, so that its instance can be left.
func (r *arrival) takeBundle() (client.Bundle, bool) {
	b := r.bundle
	if b == nil || b.LeaseDuration > 0 && time.Since(r.at) > b.LeaseDuration/6 {
		return client.Bundle{}, false
	}
	r.bundle = nil
	return *b, true
}

// readNew logs in and reads the bundle as the coming configuration says, while the instance of the present one is kept: that
// has what the workload uses, and a name with a typing error is not to cost it its lease.
func (a *Agent) readNew() request {
	c := &a.coming
	c.method = a.methodOf(*c)
	method, vault, token, to := c.method, c.vault, c.token, c.config
	engine := client.New(vault.Vault, to.Vault.Mount)
	as := client.Reader{Workload: to.Workload, Instance: to.Instance, OneLine: to.oneLine(), Secret: a.secretOf(to)}
	var bundle *client.Bundle // that was read
	send := func(ctx context.Context) (login bool, err error) {
		if token == nil || !token.Ends.IsZero() && time.Now().After(token.Ends) { // a read whose answer was lost is repeated by the same login
			t, err := method.Login(ctx, vault)
			if err != nil {
				return true, err
			}
			token = &t
		}
		as.Pod, as.Node = token.Pod, token.Node
		b, err := readAs(ctx, engine, as, true)
		if errors.Is(err, client.ErrNoWrite) {
			b, err = readAs(ctx, engine, as, false)
		}
		if err == nil {
			bundle = &b
		}
		return false, err
	}
	return request{
		send: func(ctx context.Context) finish {
			login, err := send(ctx)
			at := time.Now()
			return func() machine.Event {
				a.coming.token = token
				newer := a.sent.newer
				switch {
				case err == nil && newer != nil:
					a.coming.config, a.coming.sent = newer.config, newer.sent
				case newer != nil:
					select { // it may have what this one lacks
					case a.next <- *newer:
					default: // there is a newer one still
					}
				}
				if err != nil {
					return a.notNew(err, login)
				}
				a.arrival = arrival{vault, token, bundle, at}
				return machine.Event{Kind: machine.NewRead}
			}
		},
		drop: func() {
			switch {
			case bundle == nil: // Vault may serve the read all the same
				a.coming.inherit(change{config: to, vault: vault, method: method, token: token})
			case a.formerOf(to) == nil:
				a.leaveUnused(engine, to.Workload, *bundle)
			}
		},
	}
}

// inherit lets a configuration have the login of the one before it, if both are of the same instance and Vault may have served a read of
// that one whose answer was lost: to another login, the name might not be free.
func (c *change) inherit(before change) {
	if before.token != nil && identityOf(before.config) == identityOf(c.config) && reflect.DeepEqual(before.config.Vault, c.config.Vault) {
		c.vault, c.method, c.token = before.vault, before.method, before.token
	}
}

// secretOf is the secret by which a configuration's instance proves itself: that of a former instance, or what an earlier process
// has kept. At the place of the present instance's secret there is no other one.
func (a *Agent) secretOf(c Config) key.Value {
	if f := a.formerOf(c); f != nil {
		return f.secret
	}
	here, _ := a.config.secretPath()
	if there, _ := c.secretPath(); there == here {
		return key.Value{}
	}
	secret, err := c.keptSecret()
	a.sayUnusedSecret(err)
	return secret
}

// notNew is the event of another instance's bundle that was not read.
func (a *Agent) notNew(err error, login bool) machine.Event {
	to := a.coming.config
	a.problem = a.masked(to.troubleOf(err, login))
	err = fmt.Errorf("no bundle for workload %q, instance %q, at the mount %q: %w", to.Workload, to.Instance, to.Vault.Mount, a.problem)
	if errors.Is(err, client.ErrUnavailable) {
		err = fmt.Errorf("%w; the sidecar tries it again until Vault answers", err)
		a.showNotTaken(&status.NotTaken{At: a.coming.sent, Error: err.Error()})
		return machine.Event{Kind: machine.NewUnavailable, RetryAfter: a.coming.vault.Wait()}
	}
	err = fmt.Errorf("%w; correct the configuration or the policy, and send SIGHUP again", err)
	a.coming.token = nil // another login may have other policies
	a.log.Error("configuration not taken; the one before stays", "error", err)
	a.showNotTaken(&status.NotTaken{At: time.Now(), Error: err.Error()})
	return machine.Event{Kind: machine.NewRefused}
}

// showNotTaken puts on the board that the coming configuration was not taken, or waits for Vault, unless there is a newer one.
func (a *Agent) showNotTaken(n *status.NotTaken) {
	if len(a.next) > 0 {
		return
	}
	a.board.Update(func(s *status.State) {
		if s.NotTaken == nil || s.NotTaken == a.notTaken {
			s.NotTaken, a.notTaken = n, n
		}
	})
}

// clearNotTaken removes from the board what showNotTaken has put there. The refusal of a newer configuration stays.
func (a *Agent) clearNotTaken() {
	a.board.Update(func(s *status.State) {
		if s.NotTaken == a.notTaken {
			s.NotTaken = nil
		}
	})
	a.notTaken = nil
}

// arrive proves the instance of the configuration that was just taken: by the read before it, or as the former instance that it is
// again.
func (a *Agent) arrive() {
	f := a.formerOf(a.config)
	switch {
	case a.arrival.vault == a.vault:
		a.secret = a.arrival.bundle.Secret
		a.dropFormer()
	case f != nil:
		a.secret = f.secret
	default:
		a.loadSecret()
	}
}

// leaveForAnother lets go of what another configuration does not need: an instance whose bundle was read and never used, and the
// login for it.
func (a *Agent) leaveForAnother() {
	switch {
	case a.arrival.vault == a.coming.vault:
	case identityOf(a.config) == identityOf(a.coming.config):
		a.arrival = arrival{} // the secret of its read proves the instance
	default:
		a.leaveArrival()
	}
}

// leaveArrival leaves an instance whose bundle was read and never used.
func (a *Agent) leaveArrival() {
	b := a.arrival.bundle
	a.arrival = arrival{}
	if b == nil {
		return
	}
	a.leaveUnused(a.engine, a.config.Workload, *b)
}

func (a *Agent) leaveUnused(engine *client.Client, workload string, b client.Bundle) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	if err := engine.Leave(ctx, workload, b.Instance, b.Secret); err != nil {
		a.log.Warn("engine not told that the instance has ended; it counts as live until its lease ends", "error", a.mask(err.Error()))
	}
}
