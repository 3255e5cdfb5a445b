// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/lastgood"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// read reads the bundle as the instance that it is: another login, of this process or of the next one, may use the instance's
// name with the secret of its newest read.
func (a *Agent) read(ctx context.Context) (client.Bundle, error) {
	if a.state.Writes != machine.WritesAllowed {
		return a.engine.CredsOf(ctx, a.config.Workload, a.config.Instance, a.config.oneLine())
	}
	return a.engine.Read(ctx, client.Reader{
		Workload: a.config.Workload, Instance: a.config.Instance, OneLine: a.config.oneLine(), Secret: a.secret,
		Pod: a.token.Pod, Node: a.token.Node,
	})
}

// secretPath is where the secret is kept for the next process: beside the first rendered file, or beside the last-good
// copy and sealed as that is. Empty: nowhere.
func (a *Agent) secretPath() (path string, sealed bool) {
	switch files := a.config.Files(); {
	case a.config.LastGood != nil:
		return a.config.LastGood.Path + ".instance", true
	case len(files) > 0:
		first := files[0].Path
		return filepath.Join(filepath.Dir(first), ".instance-"+filepath.Base(first)+".hyvve"), false
	}
	return "", false
}

// sealedSecret is the place of a sealed secret.
func (a *Agent) sealedSecret(path string) lastgood.Store {
	return lastgood.Store{Path: path, KeyFile: a.config.LastGood.KeyFile, Owner: a.config.LastGood.Owner}
}

// loadSecret takes what an earlier process of the instance has kept. Without it the name is free after a while.
func (a *Agent) loadSecret() {
	a.secret = key.Value{}
	path, sealed := a.secretPath()
	var err error
	switch {
	case path == "":
		a.log.Info("there is no place where the instance's secret could be kept: should this process be killed, the next one waits until its name is free (takeover_after of hyvve/config, 30s by default). To have the name at once, add last_good to the vault block, or a render block", "instance", a.config.Instance)
		return
	case sealed:
		a.secret, err = a.sealedSecret(path).LoadSecret()
	default:
		var text string
		text, err = external.ReadCredential(path)
		a.secret = key.NewValue(text)
	}
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
	path, sealed := a.secretPath()
	switch {
	case path == "":
		return nil
	case sealed:
		return a.sealedSecret(path).SaveSecret(a.secret)
	}
	return render.Keep(path, []byte(a.secret.Reveal()))
}

// dropSecret removes what proves nothing any more.
func (a *Agent) dropSecret() {
	if path, _ := a.secretPath(); path != "" {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.Warn("the secret of the instance that has ended stays; it proves nothing", "error", err)
		}
	}
}
