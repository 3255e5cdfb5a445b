// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/kubernetes"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/lastgood"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
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
	Checker      health.Checker    // nil: the workload counts as healthy when it has been made to reload
	Valid        watch.Validator   // nil: whatever is stable is acted on
	Destinations []Destination     // that are no files

	RestartsWithin time.Duration // in which a workload that is gone may be back when the sidecar stops; 0: restartTime or podRestartTime

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

// sayInClear warns, once a configuration, of what crosses a network in the clear, and leaves it in the status.
func (a *Agent) sayInClear() {
	for _, text := range a.config.Warnings {
		a.log.Warn("a secret crosses the network without verified TLS", "where", text)
	}
	a.board.Warn(a.config.Warnings)
}

// databaseInClear warns of the database whose rows are re-encrypted, whose URL may be a key. It returns what was said, and says
// nothing again that it has said before. The configuration's own warnings stay.
func databaseInClear(url, said string, own []string, board *status.Board, log *slog.Logger) string {
	why := dsn.InClear(url)
	if why == "" {
		board.Warn(own)
		return said
	}
	why = "reencrypt: " + why
	if why != said {
		log.Warn("a secret crosses the network without verified TLS", "where", why)
	}
	board.Warn(append(slices.Clone(own), why))
	return why
}

// change is another configuration, and a client of its Vault.
type change struct {
	config Config
	vault  *login.Connection
	method *login.Method // nil: take chooses it
	token  *login.Token  // of vault; nil: there was no login
	sent   time.Time
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
	a.next <- change{config: c, vault: v, sent: time.Now()}
	return nil
}

// changeable refuses what a running sidecar cannot change without a moment in which it does not serve.
func (c Config) changeable(to Config) error {
	for _, part := range []struct {
		name string
		same bool
	}{
		{"proxies, and where their state is,", reflect.DeepEqual(c.Listeners, to.Listeners)},
		{"status block", reflect.DeepEqual(c.status(), to.status())},
		{"choice between a vault block and a watch block", (c.Watch == nil) == (to.Watch == nil)},
		{"exec block", c.Exec == nil && to.Exec == nil},
	} {
		if !part.same {
			return fmt.Errorf("the %s cannot change while the sidecar runs; restart it for that", part.name)
		}
	}
	if c.Socket != to.Socket {
		where := func(path string) string { return cmp.Or(path, "none") }
		return fmt.Errorf("the socket of \"hyvve-sidecar status\" would move from %s to %s, which it cannot while the sidecar runs; keep it with status { socket = %q }, or restart the sidecar", where(c.Socket), where(to.Socket), where(c.Socket))
	}
	return nil
}

// status is what the status block says of anything but the socket.
func (c Config) status() (rest config.StatusBlock) {
	if c.Status != nil {
		rest = *c.Status
	}
	rest.Socket = ""
	return rest
}

// take sets all that comes from the configuration.
func (a *Agent) take(c change) {
	a.method, a.barred = a.methodOf(c), false
	a.instance.Store(c.config.Instance)
	a.config, a.vault, a.engine = c.config, c.vault, client.New(c.vault.Vault, c.config.Vault.Mount)
	a.prepareReload()
	a.prepareHealth()
	a.jobs = newJobs(a.reencryptor(), a.mask)
}

// methodOf returns the way to log in for a configuration. The present one may know a secret id that can be unwrapped only once.
func (a *Agent) methodOf(c change) *login.Method {
	switch {
	case c.method != nil:
		return c.method
	case a.method == nil || c.config.Vault.Auth != a.config.Vault.Auth:
		return login.New(c.config.Vault.Auth)
	}
	return a.method
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
	a.leaveForAnother()
	if another {
		a.holdFormer()
	}
	a.conflict = ""
	targets := a.config.Targets
	a.take(a.coming)
	a.moveNotes(targets)
	a.clearNotTaken()
	if another {
		a.copies = copies{} // of the other instance nothing stays but what is to be masked
		a.arrive()
	}
	a.sayInClear()
	a.sayRisks()
	pending := a.tidy()
	a.copies.kept, a.copies.etag, a.onDisk = time.Time{}, "", nil // places may be others
	a.board.Update(func(s *status.State) {
		first := newBoard(a.config, nil).State()
		s.Workload, s.Instance, s.Rendered, s.Vault = first.Workload, first.Instance, first.Rendered, first.Vault
		s.Destinations, s.Rollout, s.Conflict = nil, nil, ""
		if another {
			s.Etag, s.Keys = "", nil
		}
	})
	a.log.Info("configuration taken", "workload", a.config.Workload, "instance", a.config.Instance)
	return machine.Event{Kind: machine.Adopted, Settings: a.settings(), Reload: pending}
}
