// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/lastgood"
)

const (
	// copyPatience: Vault often comes up beside the workload.
	copyPatience = 2 * time.Second
	// copyEvery is how often a copy is stored again while nothing changes, which tells how old it is.
	copyEvery = 10 * time.Minute
)

// copies is what is known of the last-good copy.
type copies struct {
	confirmed time.Time // when Vault last said what the instance should hold
	kept      time.Time // confirmed of what this run has stored last
	etag      string    // of what was stored then
}

// keepCopy stores the bundle before files are written with it: killed in between, the copy is what comes next, and never
// what was before. Where it cannot be stored, the one before is removed, for the same reason; files are written without
// one then. Only where both fail are they not.
func (a *Agent) keepCopy(context.Context) (machine.Event, bool) {
	store := a.config.LastGood
	if store == nil || !a.state.Holds() || a.copies.etag == a.bundle.Etag && !a.copyDue() {
		return machine.Event{}, false
	}
	err := a.storeCopy(a.bundle)
	if err == nil {
		return machine.Event{}, false
	}
	a.copies.kept, a.copies.etag = time.Time{}, ""
	if gone := store.Remove(); gone != nil {
		return a.notWritten(fmt.Errorf("last_good: the copy can neither be stored nor removed, and would be older than the files: %w", errors.Join(err, gone)), wrote{})
	}
	a.log.Warn("last-good copy not stored; a start without vault would wait", "error", err)
	return machine.Event{}, false
}

// confirmCopy stores what the files hold once more, now and then, since Vault has just confirmed it.
func (a *Agent) confirmCopy() {
	a.copies.confirmed = time.Now()
	if a.config.LastGood == nil || a.state.Files != machine.FilesWritten || !a.copyDue() {
		return
	}
	if err := a.storeCopy(a.applied); err != nil {
		a.log.Warn("last-good copy not stored anew; it seems older than it is", "error", err)
	}
}

func (a *Agent) copyDue() bool {
	every := copyEvery
	if most := a.config.LastGood.MaxAge; most > 0 {
		every = min(every, most/4)
	}
	return time.Since(a.copies.kept) >= every
}

func (a *Agent) storeCopy(b client.Bundle) error {
	if err := a.config.LastGood.Save(b, a.copies.confirmed); err != nil {
		return err
	}
	a.copies.kept, a.copies.etag = a.copies.confirmed, b.Etag
	return nil
}

// loadCopy loads the copy where Vault cannot be reached and nothing was read from it since the start.
func (a *Agent) loadCopy(ctx context.Context) machine.Event {
	c, err := a.config.LastGood.Load(time.Now())
	if err == nil {
		err = a.notBehind(ctx, c)
	}
	if err != nil {
		a.log.Warn("last-good copy not used; waiting for vault", "error", err)
		return machine.Event{Kind: machine.CopyUnusable}
	}
	a.log.Warn("running from the last-good copy, since vault cannot be reached; nothing is reported", "age", time.Since(c.Stored).Round(time.Second).String(),
		"stored", c.Stored, "etag", c.Bundle.Etag)
	return machine.Event{Kind: machine.CopyLoaded, Held: a.hold(c.Bundle)}
}

// notBehind refuses a copy that is older than a file or a Secret which is there and holds something else. Copies are stored before
// files are written, so that one was restored from elsewhere, or the files were written while none was kept.
func (a *Agent) notBehind(ctx context.Context, c lastgood.Copy) error {
	for _, t := range a.config.Targets {
		newer, err := t.NewerThan(c.Stored, c.Bundle)
		if err != nil {
			return err
		}
		if newer != "" {
			return fmt.Errorf("%s was written after the copy was stored, and holds something else; the files stay as they are", newer)
		}
	}
	for _, d := range a.config.Destinations {
		data, err := d.Data.Of(c.Bundle)
		if err != nil {
			return err
		}
		newer, err := d.ChangedAfter(ctx, c.Stored, data)
		if err != nil {
			return err
		}
		if newer {
			return fmt.Errorf("the secret %s was written after the copy was stored, and holds something else; it stays as it is", d)
		}
	}
	return nil
}
