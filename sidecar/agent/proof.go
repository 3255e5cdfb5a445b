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
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/lastgood"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// proof is what the sidecar has to show that it is its instance: another login, of this process or of the next one, may
// use the instance's name with the secret of its newest read.
type proof struct {
	secret   key.Value
	unkept   bool // it is not stored, since there was no place yet
	last     bool // this process ends, and the instance does not
	readOnly bool // the policy or the engine takes no secret
}

// read reads the bundle as the instance that it is.
func (a *Agent) read(ctx context.Context) (client.Bundle, error) {
	if !a.proof.readOnly {
		bundle, err := a.engine.Read(ctx, client.Reader{
			Workload: a.config.Workload, Instance: a.config.Instance, OneLine: a.config.oneLine(), Secret: a.proof.secret,
			Pod: a.token.Pod, Node: a.token.Node,
		})
		if !errors.Is(err, client.ErrNoWrite) {
			return bundle, err
		}
	}
	bundle, err := a.engine.CredsOf(ctx, a.config.Workload, a.config.Instance, a.config.oneLine())
	if err == nil && !a.proof.readOnly {
		a.proof.readOnly = true
		a.log.Warn("vault lets this sidecar read its bundle, and not write its secret there; after another login it may have to wait until its name is free. Add \"update\" to the capabilities of creds in its policy", "path", a.config.Vault.Mount+"/creds/"+a.config.Workload)
	}
	return bundle, err
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
	a.proof.secret = key.Value{}
	path, sealed := a.secretPath()
	var err error
	switch {
	case path == "":
		a.log.Info("there is no place where the instance's secret could be kept: should this process be killed, the next one waits until its name is free (takeover_after of hyvve/config, 30s by default). To have the name at once, add last_good to the vault block, or a render block", "instance", a.config.Instance)
		return
	case sealed:
		a.proof.secret, err = a.sealedSecret(path).LoadSecret()
	default:
		var text string
		text, err = external.ReadCredential(path)
		a.proof.secret = key.NewValue(text)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, lastgood.ErrNone) {
		a.log.Warn("the secret of this instance's last process is not used; the name may be free only after a while", "error", err)
	}
}

// keepSecret stores the secret of the newest read, before its bundle has any effect.
func (a *Agent) keepSecret(secret key.Value) {
	a.proof.secret = secret
	err := a.storeSecret()
	a.proof.unkept = err != nil
}

// keepSecretAgain stores the secret where there was no place for it before the files were written.
func (a *Agent) keepSecretAgain() {
	if !a.proof.unkept {
		return
	}
	a.proof.unkept = false
	if err := a.storeSecret(); err != nil {
		a.log.Warn("the instance's secret is not kept; should this process be killed, the next one may have to wait until the name is free", "error", err)
	}
}

func (a *Agent) storeSecret() error {
	path, sealed := a.secretPath()
	switch {
	case path == "":
		return nil
	case sealed:
		return a.sealedSecret(path).SaveSecret(a.proof.secret)
	}
	return render.Keep(path, []byte(a.proof.secret.Reveal()))
}

// dropSecret removes what proves nothing any more.
func (a *Agent) dropSecret() {
	if path, _ := a.secretPath(); path != "" {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.Warn("the secret of the instance that has ended stays; it proves nothing", "error", err)
		}
	}
}
