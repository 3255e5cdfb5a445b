// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
)

// keeper keeps the lease of an instance beside the loop, and the token for that.
type keeper struct {
	config Config
	engine *client.Client
	vault  *login.Connection
	method *login.Method
	name   string // of the instance, as the engine calls it
	secret key.Value

	ttl       time.Duration // of the token when it was new
	renewable bool
	due       time.Time // when to renew the token, or to log in again; zero: never
}

// keeper returns one for the present instance.
func (a *Agent) keeper() *keeper {
	k := &keeper{
		config: a.config, engine: a.engine, vault: a.vault, method: a.method, name: a.bundle.Instance, secret: a.bundle.Secret,
		ttl: a.state.TTL, renewable: a.state.Renewal == machine.Renewable,
	}
	if a.state.Ends != machine.Never {
		k.due = a.began.Add(a.state.Ends - k.ttl/3)
	}
	return k
}

// extend extends the lease.
func (k *keeper) extend(ctx context.Context) error {
	k.keepToken(ctx)
	return k.request(ctx, func() error {
		_, err := k.engine.Extend(ctx, k.config.Workload, k.name, k.secret)
		return err
	})
}

// leave tells the engine that the instance has ended.
func (k *keeper) leave(ctx context.Context) error {
	return k.request(ctx, func() error { return k.engine.Leave(ctx, k.config.Workload, k.name, k.secret) })
}

// reportLeaving tells the engine that the sidecar stops beside its workload.
func (k *keeper) reportLeaving(ctx context.Context) error {
	return k.request(ctx, func() error {
		_, err := k.engine.Leaving(ctx, k.config.Workload, k.name, k.secret)
		return err
	})
}

// request makes a request, and once more after another login where Vault denies it: the token may have ended.
func (k *keeper) request(ctx context.Context, do func() error) error {
	err := do()
	if errors.Is(err, client.ErrDenied) {
		if err := k.login(ctx); err != nil {
			return err
		}
		err = do()
	}
	if err != nil {
		return k.config.troubleOf(err, false)
	}
	return nil
}

// keepToken renews the token when a third of its time is left, or logs in again where that brings less than half of it. What fails
// is tried again with the next request, which says why once the token has ended.
func (k *keeper) keepToken(ctx context.Context) {
	if k.due.IsZero() || time.Now().Before(k.due) {
		return
	}
	if k.renewable {
		token, err := login.Renew(ctx, k.vault)
		switch {
		case errors.Is(err, client.ErrUnavailable):
			return
		case err == nil && (token.TTL == 0 || token.TTL >= k.ttl/2):
			k.take(token, max(k.ttl, token.TTL))
			return
		}
	}
	_ = k.login(ctx)
}

// login logs in.
func (k *keeper) login(ctx context.Context) error {
	token, err := k.method.Login(ctx, k.vault)
	if err != nil {
		return k.config.troubleOf(err, true)
	}
	k.take(token, token.TTL)
	return nil
}

// take takes a token of which the connection has the text. ttl is what it had when it was new.
func (k *keeper) take(token login.Token, ttl time.Duration) {
	k.ttl, k.renewable, k.due = ttl, token.Renewable, time.Time{}
	if token.TTL > 0 {
		k.due = token.Ends.Add(-token.TTL / 3)
	}
}
