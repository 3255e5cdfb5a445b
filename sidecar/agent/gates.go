// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

// prepareReload has values masked in what the reloader quotes.
func (a *Agent) prepareReload() {
	if m, ok := a.config.Reloader.(reload.Masker); ok {
		a.config.Reloader = m.WithMask(a.mask)
	}
}

// prepareHealth gives the checkers what only the agent knows, and adds the one that looks for restarts where it is known
// which process the workload is.
func (a *Agent) prepareHealth() {
	warn := func(err error) {
		a.log.Warn("health is harder to tell than it should be", "error", a.mask(err.Error()))
	}
	if m, ok := a.config.Checker.(health.Masker); ok {
		a.config.Checker = m.WithMask(a.mask)
	}
	all, _ := a.config.Checker.(health.All)
	for _, c := range all {
		if p, ok := c.(*health.Prometheus); ok {
			p.Warn, p.Path = warn, a.config.keptAt("gate", p.URL+" "+p.String())
			if name := a.config.gateKeys[p]; name != "" {
				p.Tokens = func() []string { return tokens(a.bundle, name) }
			}
		}
	}
	id, ok := a.config.Reloader.(reload.Identifier)
	if !ok {
		return
	}
	var last proc.Identity
	restarts := &health.Restarts{Warn: warn, Path: a.config.keptAt("restarts", a.config.Place()), Identify: func() (string, error) {
		found, err := id.Identify(last)
		if err == nil {
			last = found
		}
		return fmt.Sprintf("%d-%d", found.PID, found.Started), err
	}}
	if a.config.Checker == nil {
		a.config.Checker = health.All{restarts}
		return
	}
	a.config.Checker = health.All{a.config.Checker, restarts}
}

// keptAt is the file in which a check is kept over restarts of the sidecar: beside the first rendered file. Without one,
// it is empty: there is no place that is known to be the sidecar's.
func (c Config) keptAt(kind, what string) string {
	if len(c.Targets) == 0 {
		return ""
	}
	sum := sha256.Sum256([]byte(what))
	return filepath.Join(filepath.Dir(c.Targets[0].Path), "."+kind+"-"+hex.EncodeToString(sum[:4])+".hyvve")
}

// tokens are the values of a key that the workload may take, the newest first.
func tokens(b client.Bundle, env string) (all []string) {
	for _, v := range b.Accepts[env] {
		all = append(all, v.Reveal())
	}
	if v, ok := b.Values[env]; ok && !slices.Contains(all, v.Reveal()) {
		all = append(all, v.Reveal())
	}
	return all
}

// beginGates lets gates look at how the workload is, before anything of it is changed.
func (a *Agent) beginGates(ctx context.Context) (machine.Event, bool) {
	g, ok := a.config.Checker.(health.Gate)
	if !ok {
		return machine.Event{}, false
	}
	if err := g.Begin(ctx, changeOf(a.bundle)); err != nil {
		a.log.Warn("a change is harder to judge than it should be", "error", a.mask(err.Error()))
	}
	return machine.Event{}, false
}

// changeOf names what a bundle holds by its versions, whatever its place in a rotation. It reveals no value.
func changeOf(b client.Bundle) string {
	hash := sha256.New()
	for _, env := range slices.Sorted(maps.Keys(b.Versions)) {
		_, _ = fmt.Fprintf(hash, "%q %d,", env, b.Versions[env])
	}
	for _, env := range slices.Sorted(maps.Keys(b.AcceptVersions)) {
		_, _ = fmt.Fprintf(hash, "%q %d,", env, b.AcceptVersions[env])
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}
