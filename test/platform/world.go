// SPDX-License-Identifier: Apache-2.0

// Package demo runs the main job on real parts: a small HYVVE of two workloads with two instances each, a sidecar
// beside every instance, a database with envelopes, a steady load; and rotations of every key under that load. The
// scenarios of test/e2e build on the same World.
package platform

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/kinds"
	facts "github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// Size is how large the world is.
type Size struct {
	Instances int // of each workload
	Seeding   bed.Seeding
	Durable   bool          // a Vault that may be killed
	Cluster   bool          // a cluster of Vaults, any of which may be killed
	Lease     time.Duration // of bundles; 60s if zero

	// Expose makes a loopback port reachable for workloads that have a network of their own, and returns the host at which.
	// nil: workloads reach the servers where we do.
	Expose func(port int) (host string, err error)
}

// World is the running platform.
type World struct {
	Bed      *bed.Bed
	Postgres *bed.Postgres
	Redis    *bed.Redis
	Vault    *bed.Vault     // nil where there is a cluster
	Cluster  *bed.Cluster   // nil where there is one Vault
	Server   bed.Server     // either of them
	Engine   *client.Client // with the root token
	Rows     []bed.Row
	Initial  map[string]key.Value // by environment name: the values before any rotation

	Sidecars map[string]*bed.Program // by instance
	Apps     map[string]*bed.Program
	APIs     []string // URLs
	Agents   []string

	// Transport takes the load's requests, where workloads have a network of their own. nil: as Go does by default.
	Transport http.RoundTripper

	database, cache server
	witness         key.Value // URL of a login that may look at the rows
	canaries        canaries
	binary          string // hyvve-demo, which is the workloads too
}

// instances of a workload are named so.
func instance(workload string, n int) string { return fmt.Sprintf("%s-%d", workload, n) }

// Build starts everything but the workloads. Close the bed to end it.
func Build(ctx context.Context, b *bed.Bed, size Size) (*World, error) {
	w := &World{
		Bed: b, Initial: map[string]key.Value{}, binary: bed.Tool("bin", "hyvve-demo"),
		Sidecars: map[string]*bed.Program{}, Apps: map[string]*bed.Program{},
	}
	if err := w.drawInitial(); err != nil {
		return nil, err
	}
	var group errgroup.Group
	group.Go(func() error { return w.startDatabase(ctx, size.Seeding) })
	group.Go(func() error { return w.startRedis(ctx) })
	group.Go(func() error { return w.startServer(ctx, size) })
	if err := group.Wait(); err != nil {
		return w, err
	}
	for _, s := range []*server{&w.database, &w.cache} {
		if err := s.expose(size.Expose); err != nil {
			return w, err
		}
	}
	w.Initial["DATABASE_URL"], w.Initial["REDIS_URL"] = w.database.url, w.cache.url
	return w, w.configure(ctx, size)
}

// drawInitial makes the tokens that the platform has before the engine knows it. Its URLs come with the servers.
func (w *World) drawInitial() error {
	list := kinds.All()
	for _, k := range facts.Keys(facts.Servers{}) {
		kd, err := list.Get(k.Kind)
		if err != nil {
			return err
		}
		generator, ok := kd.(kind.Generator)
		if !ok {
			return fmt.Errorf("%s: its kind makes no values", k.Name)
		}
		v, err := generator.Generate(random{}, key.Key{Name: k.Name, Options: k.Options}, key.Value{})
		if err != nil {
			return fmt.Errorf("%s: %w", k.Name, err)
		}
		w.Initial[k.Env] = v
		w.canaries.add(v)
	}
	return nil
}

// policy is what a sidecar may do; docs/sidecar.md shows the same.
const policy = `
path "hyvve/creds/%[1]s"  { capabilities = ["read", "update"] }
path "hyvve/watch/%[1]s"  { capabilities = ["read"] }
path "hyvve/report/%[1]s" { capabilities = ["update"] }
path "hyvve/leave/%[1]s"  { capabilities = ["update"] }
`

// auditor is the demo's own workload: it learns every value ever issued, to search the logs for.
const auditor = "auditor"

// configure tells the engine of the servers, the keys with the values in use, and the workloads.
func (w *World) configure(ctx context.Context, size Size) (err error) {
	w.Engine = client.New(w.Server.Client, bed.Mount)
	w.canaries.add(key.NewValue(w.Server.Token))
	logical := w.Server.Client.Logical()
	write := func(path string, data map[string]any) {
		if err == nil {
			if _, err = logical.WriteWithContext(ctx, path, data); err != nil {
				err = fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	lease := size.Lease
	if lease == 0 {
		lease = time.Minute
	}
	write("hyvve/config", map[string]any{"lease_ttl": lease.String(), "soak": "2s", "observe": "2s"})
	for name, s := range map[string]server{servers.Database: w.database, servers.Redis: w.cache} {
		w.canaries.add(s.admin)
		w.canaries.add(s.url)
		write("hyvve/connections/"+name, map[string]any{"kind": s.kind, "url": s.admin.Reveal()})
		write("hyvve/connections/"+name+"/rotate-root", nil) // from here on nobody but the mount knows that password
	}
	w.canaries.add(w.witness)
	write("hyvve/connections/"+witnessConnection, map[string]any{"kind": "postgres", "url": w.witness.Reveal(), "rows_only": "true"})
	write("hyvve/presets/hyvve", map[string]any{"workloads": "api,agents", "min_instances": size.Instances, "database": servers.Database, "redis": servers.Redis})
	var names []string
	for _, k := range facts.Keys(servers) {
		data := map[string]any{"value": w.Initial[k.Env].Reveal()}
		if size.Expose != nil && k.Server != "" { // where workloads reach the server, Vault does not
			data["verify_urls"] = "false"
		}
		if len(k.Protects) > 0 {
			data["witness"] = witnessConnection
		}
		write("hyvve/keys/"+k.Name, data)
		names = append(names, k.Name)
	}
	write("hyvve/workloads/"+auditor, map[string]any{"verifies": names, "min_instances": 0})
	if err == nil {
		err = w.Server.Client.Sys().EnableAuthWithOptionsWithContext(ctx, "approle", approleMount)
	}
	for _, workload := range []string{"api", "agents"} {
		if err == nil {
			err = w.Server.Client.Sys().PutPolicyWithContext(ctx, workload, fmt.Sprintf(policy, workload))
		}
		write("auth/approle/role/"+workload, map[string]any{"token_policies": workload, "token_ttl": "1h"})
	}
	return err
}

func (w *World) startServer(ctx context.Context, size Size) (err error) {
	o := bed.VaultOptions{Audit: true, Durable: size.Durable}
	if size.Cluster {
		if w.Cluster, err = w.Bed.Cluster(ctx, o); err == nil {
			w.Server = w.Cluster.Server
		}
		return err
	}
	if w.Vault, err = w.Bed.Vault(ctx, o); err == nil {
		w.Server = w.Vault.Server
	}
	return err
}

// StartWorkloads starts all instances and their sidecars: api first, since agents calls it from the start.
func (w *World) StartWorkloads(ctx context.Context, instances int) error {
	for _, workload := range []string{"api", "agents"} {
		for n := 1; n <= instances; n++ {
			if err := w.startInstance(ctx, workload, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// startInstance starts one, and waits until its sidecar has reported it healthy.
func (w *World) startInstance(ctx context.Context, workload string, n int) error {
	p, err := w.place(ctx, workload, n)
	if err != nil {
		return err
	}
	if err := w.startSidecar(p, "agent", p.blocks()); err != nil {
		return err
	}
	args := []string{workload, "--instance=" + p.name, "--address=" + p.address, "--bundle=" + filepath.Join(p.dir, "bundle.json"), "--pid-file=" + filepath.Join(p.dir, "pid")}
	if workload == "agents" {
		args = append(args, "--api="+strings.Join(w.APIs, ","))
	}
	if w.Apps[p.name], err = w.Bed.Program(p.name, w.binary, args, nil); err != nil {
		return err
	}
	if workload == "api" {
		w.APIs = append(w.APIs, p.url())
	} else {
		w.Agents = append(w.Agents, p.url())
	}
	return w.awaitHealthy(ctx, p.url(), p.name)
}

// blocks are the configuration of a sidecar beside an instance that reads files.
func (p place) blocks() string {
	config := fmt.Sprintf(`
render "bundle" { path = "%[1]s/bundle.json" }
render "dotenv" { path = "%[1]s/.env" }
render "json"   { path = "%[1]s/secrets.json" }
render "files"  { path = "%[1]s/secrets" }
reload "signal" { pid_file = "%[1]s/pid" }
`, p.dir) + p.healthBlock()
	if p.workload == "api" {
		config += "reencrypt { database_url_key = \"DATABASE_URL\" }\n"
	}
	return config
}

// awaitHealthy polls until the instance answers.
func (w *World) awaitHealthy(ctx context.Context, url, name string) error {
	ctx, cancel := context.WithTimeout(ctx, bed.WaitTimeout)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/health", http.NoBody)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not come up; its sidecar says:\n%s\nand itself:\n%s", name, w.Sidecars[name].Tail(), w.Apps[name].Tail())
		case <-w.Sidecars[name].Done():
			return fmt.Errorf("the sidecar of %s ended:\n%s", name, w.Sidecars[name].Tail())
		case <-w.Apps[name].Done():
			return fmt.Errorf("%s ended:\n%s", name, w.Apps[name].Tail())
		case <-ticker.C:
		}
	}
}

// StartExec starts one more instance of agents, which reads its keys from the environment at its start, as the platform's
// own do, and is therefore run by its sidecar. It returns the instance's name; its URL is the last of Agents.
func (w *World) StartExec(ctx context.Context, n int) (string, error) {
	p, err := w.place(ctx, "agents", n)
	if err != nil {
		return p.name, err
	}
	return p.name, w.startExec(ctx, p, "", w.APIs)
}

// StartScraped starts one as StartExec does, which calls api at a URL, and has the sidecar's proxy before it for
// METRICS_API_KEY. It returns the proxy's URL besides.
func (w *World) StartScraped(ctx context.Context, n int, api string) (name, url string, err error) {
	p, err := w.place(ctx, "agents", n)
	if err != nil {
		return p.name, "", err
	}
	port, err := bed.FreePort()
	if err != nil {
		return p.name, "", err
	}
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	block := fmt.Sprintf(`
proxy {
  listen   = %q
  upstream = %q
  key      = "METRICS_API_KEY"
  state    = "%s/proxy-state"
}
`, listen, p.url(), p.dir)
	return p.name, "http://" + listen, w.startExec(ctx, p, block, []string{api})
}

func (w *World) startExec(ctx context.Context, p place, blocks string, apis []string) error {
	blocks += `exec { keys = ["AGENT_SERVICE_TOKEN", "METRICS_API_KEY", "REDIS_URL"] }` + p.healthBlock()
	if err := w.startSidecar(p, "exec", blocks, "--", w.binary, p.workload, "--instance="+p.name, "--address="+p.address, "--api="+strings.Join(apis, ",")); err != nil {
		return err
	}
	w.Apps[p.name] = w.Sidecars[p.name] // they end together
	w.Agents = append(w.Agents, p.url())
	return w.awaitHealthy(ctx, p.url(), p.name)
}

// StartProxy starts one more instance of api, whose process is somebody else's at upstream and holds the token that it
// started with, as the platform's guard does. Clients come to the sidecar's proxy, whose URL it gives.
func (w *World) StartProxy(ctx context.Context, n int, upstream string) (string, error) {
	p, err := w.place(ctx, "api", n)
	if err != nil {
		return "", err
	}
	blocks := fmt.Sprintf(`
render "json" {
  path = "%s/secrets.json"
  keys = ["AGENT_SERVICE_TOKEN"]
}
proxy {
  listen   = %q
  upstream = %q
  key      = "AGENT_SERVICE_TOKEN"
}
health "tcp" { address = %q }
`, p.dir, p.address, upstream, strings.TrimPrefix(upstream, "http://"))
	if err := w.startSidecar(p, "agent", blocks); err != nil {
		return "", err
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.address); err == nil {
			return p.url(), conn.Close()
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-w.Sidecars[p.name].Done():
			return "", fmt.Errorf("the sidecar of %s ended:\n%s", p.name, w.Sidecars[p.name].Tail())
		case <-ticker.C:
		}
	}
}

// AddWorkload tells the engine of one more workload, as hyvve/workloads/ takes it, and lets its sidecars log in.
func (w *World) AddWorkload(ctx context.Context, name string, data map[string]any) error {
	logical := w.Server.Client.Logical()
	if _, err := logical.WriteWithContext(ctx, "hyvve/workloads/"+name, data); err != nil {
		return fmt.Errorf("workload %s: %w", name, err)
	}
	if err := w.Server.Client.Sys().PutPolicyWithContext(ctx, name, fmt.Sprintf(policy, name)); err != nil {
		return err
	}
	_, err := logical.WriteWithContext(ctx, "auth/approle/role/"+name, map[string]any{"token_policies": name, "token_ttl": "1h"})
	return err
}

// Place makes the directory of one more instance of a workload, for its files, and returns its name and that directory.
func (w *World) Place(workload string, n int) (name, dir string, err error) {
	name = instance(workload, n)
	dir = filepath.Join(w.Bed.Dir, name)
	return name, dir, os.MkdirAll(dir, 0o700)
}

// StartSidecar starts the agent of an instance, whose process is somebody else's. Blocks are the configuration without login
// and names.
func (w *World) StartSidecar(ctx context.Context, workload string, n int, blocks string) error {
	p, err := w.place(ctx, workload, n)
	if err != nil {
		return err
	}
	return w.startSidecar(p, "agent", blocks)
}
