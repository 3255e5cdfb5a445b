// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/lastgood"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// prepareReload has values masked in what the reloader quotes.
func (a *Agent) prepareReload() {
	if m, ok := a.config.Reloader.(reload.Masker); ok {
		a.config.Reloader = m.WithMask(a.mask)
	}
}

// prepareHealth passes to the checkers what only the agent knows, and adds the one that looks for restarts where it is known
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
	a.process = proc.Identity{}
	restarts := &health.Restarts{Warn: warn, Path: a.config.keptAt("restarts", a.config.Place()), Identify: func() (string, error) {
		found, err := id.Identify(a.process)
		if err == nil {
			a.process = found
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

// A process that holds the workload back until its keys are there is missed if it does not come within awaitedFirst, at once if it goes
// without an answer, as one that is killed, and otherwise after awaitedAgain.
const (
	awaitedFirst = 5 * time.Second
	awaitedAgain = time.Second
)

// awaited returns a context that ends with status.ErrAbandoned when nobody holds the workload back any more, where the configuration
// asks for that: a process that starts the sidecar again holds it back again. It is over with once the sidecar has been ready, also in an
// earlier life: the workload may run then, and a process that waited for the sidecar again, as a kubelet does with its hook, would not look
// after the workload meanwhile.
func (a *Agent) awaited(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if a.config.Status == nil || !a.config.Status.EndUnlessAwaited {
		return ctx, cancel
	}
	first := a.config.Targets[0]
	if first.InPlace() {
		a.log.Info("files of an earlier start are in place")
		a.board.Update(func(s *status.State) { s.Ready = true })
		return ctx, cancel
	}
	go func() {
		switch err := a.board.Held(ctx, awaitedFirst, awaitedAgain); {
		case errors.Is(err, status.ErrAbandoned):
			cancel(err)
		case err == nil:
			if err := first.SetInPlace(); err != nil {
				a.log.Warn("that files are in place is not noted; the next start waits for Vault", "error", err)
			}
		}
	}()
	return ctx, cancel
}

// abandoned is status.ErrAbandoned if ctx has ended of it.
func abandoned(ctx context.Context) error {
	if err := context.Cause(ctx); errors.Is(err, status.ErrAbandoned) {
		return err
	}
	return nil
}

// secretPath is where the secret is kept for the next process: beside the first rendered file, or beside the last-good
// copy and sealed as that is. Empty: nowhere.
func (c *Config) secretPath() (path string, sealed bool) {
	switch files := c.Files(); {
	case c.LastGood != nil:
		return c.LastGood.Path + ".instance", true
	case len(files) > 0:
		first := files[0].Path
		return filepath.Join(filepath.Dir(first), ".instance-"+filepath.Base(first)+".hyvve"), false
	}
	return "", false
}

// sealedSecret is the place of a sealed secret.
func (c *Config) sealedSecret(path string) lastgood.Store {
	return lastgood.Store{Path: path, KeyFile: c.LastGood.KeyFile, Owner: c.LastGood.Owner}
}

// loadSecret takes what an earlier process of the instance has kept. Without it the name is free after a while.
func (a *Agent) loadSecret() {
	a.secret = key.Value{}
	if path, _ := a.config.secretPath(); path == "" {
		a.log.Info("there is no place where the instance's secret could be kept: should this process be killed, the next one waits until its name is free (takeover_after of the mount's config, 30s by default). To have the name at once, add last_good to the vault block, or a render block", "instance", a.config.Instance, "config", a.config.Vault.Mount+"/config")
		return
	}
	var err error
	a.secret, err = a.config.keptSecret()
	a.sayUnusedSecret(err)
}

// keptSecret is what an earlier process of the instance has kept; the zero value, without an error, where there is no place for it.
func (c *Config) keptSecret() (key.Value, error) {
	path, sealed := c.secretPath()
	switch {
	case path == "":
		return key.Value{}, nil
	case sealed:
		return c.sealedSecret(path).LoadSecret()
	}
	text, err := external.ReadCredential(path)
	return key.NewValue(text), err
}

func (a *Agent) sayUnusedSecret(err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, lastgood.ErrNone) {
		a.log.Warn("the secret of this instance's last process is not used; the name may be free only after a while", "error", err)
	}
}

// saveSecret stores the secret of the newest read.
func (a *Agent) saveSecret(context.Context) machine.Event {
	if err := a.storeSecret(); err != nil {
		a.problem = err
		return machine.Event{Kind: machine.NotSaved}
	}
	return machine.Event{Kind: machine.Saved}
}

func (a *Agent) storeSecret() error {
	path, sealed := a.config.secretPath()
	switch {
	case path == "":
		return nil
	case sealed:
		return a.config.sealedSecret(path).SaveSecret(a.secret)
	}
	return render.Keep(path, []byte(a.secret.Reveal()))
}

// dropSecret removes what proves nothing any more.
func (a *Agent) dropSecret() {
	if path, _ := a.config.secretPath(); path != "" {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.Warn("the secret of the instance that has ended stays; it proves nothing", "error", err)
		}
	}
}

// absent returns the names that keys = [...] of a render or exec block has and a bundle lacks, sorted.
func (c *Config) absent(b client.Bundle) []string {
	var names []string
	for _, r := range c.Render {
		names = append(names, r.Keys...)
	}
	if c.Exec != nil {
		names = append(names, c.Exec.Keys...)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		_, present := b.Values[name]
		return present || len(b.Accepts[name]) > 0
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// sayWhatIsAbsent warns of keys that are asked for and not there, when they become others. Nothing is held back for them: a
// workload may have lost a key on purpose, or get it soon.
func (a *Agent) sayWhatIsAbsent() {
	absent := a.config.absent(a.bundle)
	if len(absent) > 0 && !slices.Equal(absent, a.absent) {
		a.log.Warn("keys that the configuration names are not in the bundle, and left out; are they misspelt, or in neither presents= nor verifies= of the workload?", "keys", absent)
	}
	a.absent = absent
	a.board.Update(func(s *status.State) { s.Absent = absent })
}
