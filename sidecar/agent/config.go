// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/kubernetes"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/lastgood"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/supervise"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/watch"
)

// Config is a configuration that was checked, and what runs by it.
type Config struct {
	config.Checked
	LastGood     *lastgood.Store   // nil: no copy is kept
	Patience     time.Duration     // how long Vault may be away at a start before the copy is used
	Reloader     reload.Reloader   // nil: files are all that is wanted
	Supervise    supervise.Options // of the exec block
	Checker      health.Checker    // nil: the workload counts as healthy when it has been told to reload
	Valid        watch.Validator   // nil: whatever is stable is acted on
	Destinations []Destination     // that are no files

	gateKeys map[*health.Prometheus]string // names of the keys whose values they present
}

// Destination is a Secret, and what it is to hold.
type Destination struct {
	*kubernetes.Secret
	Data      render.Data
	Multiline bool // the readers of what its templates make take values of several lines there
}

// Check checks a configuration, and makes what runs by it.
func Check(f config.File) (Config, error) {
	checked, err := f.Check()
	if err != nil {
		return Config{}, err
	}
	return build(checked), nil
}

func build(checked config.Checked) Config {
	c := Config{Checked: checked, gateKeys: map[*health.Prometheus]string{}}
	if c.Watch != nil {
		c.Valid = watch.Validators()[c.Watch.Validate]
	}
	if c.Vault != nil && c.Vault.LastGood != nil {
		c.Patience = copyPatience
		c.LastGood = &lastgood.Store{
			Path: filepath.Clean(c.Vault.LastGood.Path), KeyFile: c.Vault.LastGood.KeyFile, MaxAge: c.CopyAge,
			Owner: lastgood.Owner{Namespace: c.Vault.Namespace, Mount: c.Vault.Mount, Workload: c.Workload, Instance: c.Instance},
		}
	}
	c.Reloader = c.reloader()
	if c.Exec != nil {
		c.Supervise = c.supervised()
	}
	c.Checker = c.checker()
	return c
}

// reloader makes that of the reload block, and the destinations, which a rollout restarts the readers of.
func (c *Config) reloader() reload.Reloader {
	var api *kubernetes.Client
	if b := c.Kubernetes; b != nil {
		api = &kubernetes.Client{Address: b.Address, CACert: b.CACert, TokenPath: b.TokenPath}
	}
	var secrets []*kubernetes.Secret
	for _, s := range c.Secrets {
		object := s.Object()
		object.Client = api
		secrets = append(secrets, object)
		c.Destinations = append(c.Destinations, Destination{object, s.Holds, s.Multiline})
	}
	switch r := c.Reloading; r.Method {
	case "signal":
		return reload.Signal{PIDFile: r.PIDFile, Match: reload.Match{Name: r.Process, Command: r.Cmdline}, Signal: r.Signal}
	case "command":
		return reload.Command{Args: r.Command, Timeout: r.Timeout}
	case "http":
		return reload.HTTP{
			URL: r.URL, Method: r.HTTPMethod, Headers: r.Headers, HeaderFiles: r.HeaderFiles, BasicAuthFile: r.BasicAuthFile,
			BearerTokenFile: r.BearerTokenFile, Statuses: r.ExpectStatus, Timeout: r.Timeout,
		}
	case "rollout":
		return &kubernetes.Rollout{Client: api, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, Secrets: secrets}
	}
	return nil
}

func (c *Config) supervised() supervise.Options {
	r := c.Running
	o := supervise.Options{
		Command: r.Command, Environ: os.Environ(), Keys: r.Keys, Accepts: r.Accepts, Previous: r.Previous,
		OnChange: r.OnChange, Signal: r.Signal, StopSignal: r.StopSignal, StopTimeout: r.StopTimeout,
		ByEtag: c.ExpectsEtag() && len(c.Files()) > 0, Overlap: r.Overlap, Allow: c.AllowNames,
	}
	if c.Reencrypt != nil && c.Reencrypt.DatabaseURLEnv != "" {
		o.Withheld = append(o.Withheld, c.Reencrypt.DatabaseURLEnv)
	}
	return o
}

// checker makes those of the health blocks, and that of a rollout; nil if there are none.
func (c *Config) checker() health.Checker {
	var all health.All
	for _, h := range c.Checks {
		switch h.Method {
		case "http":
			all = append(all, health.HTTP{URL: h.URL, Timeout: h.Timeout, ExpectEtag: h.ExpectEtag})
		case "tcp":
			all = append(all, health.TCP{Address: h.Address, Timeout: h.Timeout})
		case "command":
			all = append(all, health.Command{Args: h.Command, Timeout: h.Timeout, ExpectEtag: h.ExpectEtag})
		case "prometheus":
			p := &health.Prometheus{
				Metrics: health.Metrics{URL: h.URL, Metric: h.Metric, Matchers: h.Matchers, Timeout: h.Timeout, BearerTokenFile: h.BearerTokenFile},
				Window:  h.Window,
			}
			if h.MaxIncrease != nil {
				p.MaxIncrease = *h.MaxIncrease
			}
			if h.Key != "" {
				c.gateKeys[p] = h.Key
			}
			all = append(all, p)
		}
	}
	if r, ok := c.Reloader.(*kubernetes.Rollout); ok {
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// connect makes the client of a block that was checked.
func connect(v config.VaultBlock) (*login.Connection, error) {
	a := login.Address{
		URL: v.Address, Namespace: v.Namespace, CACert: v.CACert, CAPath: v.CAPath, ServerName: v.ServerName,
		ClientCert: v.ClientCert, ClientKey: v.ClientKey,
	}
	if v.Auth.CertFile != "" {
		a.ClientCert, a.ClientKey = v.Auth.CertFile, v.Auth.KeyFile
	}
	return login.Connect(a)
}
