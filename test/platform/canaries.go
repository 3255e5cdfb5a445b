// SPDX-License-Identifier: Apache-2.0

package platform

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

var approleMount = &api.EnableAuthOptions{Type: "approle"}

// random is crypto/rand as a reader.
type random struct{}

func (random) Read(p []byte) (int, error) { return rand.Read(p) }

// canaries are all secrets that were ever issued; none may be found in any log.
type canaries struct {
	mu     sync.Mutex
	values map[string]bool
}

func (c *canaries) add(v key.Value) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.values == nil {
		c.values = map[string]bool{}
	}
	if !v.Empty() {
		c.values[v.Reveal()] = true
	}
	if u, err := dsn.Parse(v.Reveal(), "postgresql", "redis"); err == nil && !u.Password.Empty() {
		c.values[u.Password.Reveal()] = true
	}
}

// Audit takes part as the workload auditor, which verifies every key, and so learns every value. It returns the newest
// values that it knows of; it ends with ctx.
func (w *World) Audit(ctx context.Context) (newest func() map[string]key.Value, err error) {
	var mu sync.Mutex
	latest := map[string]key.Value{}
	take := func() (client.Bundle, error) {
		b, err := w.Engine.Creds(ctx, auditor, auditor)
		if err != nil {
			return b, err
		}
		w.canaries.add(b.Secret)
		mu.Lock()
		defer mu.Unlock()
		for env, list := range b.Accepts {
			for _, v := range list {
				w.canaries.add(v)
			}
			latest[env] = list[0]
		}
		_, err = w.Engine.Report(ctx, client.Report{Workload: auditor, Instance: auditor, Secret: b.Secret, Etag: b.Etag, Healthy: true})
		return b, err
	}
	bundle, err := take()
	if err != nil {
		return nil, err
	}
	go func() {
		for ctx.Err() == nil {
			watched, err := w.Engine.Watch(ctx, auditor, auditor, bundle.Etag, 5*time.Second)
			if err == nil && !watched.Changed {
				_, err = w.Engine.Extend(ctx, auditor, auditor, bundle.Secret)
			}
			if err == nil && !watched.Changed {
				continue
			}
			if next, err := take(); err == nil {
				bundle = next
				continue
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	return func() map[string]key.Value {
		mu.Lock()
		defer mu.Unlock()
		copied := map[string]key.Value{}
		for env, v := range latest {
			copied[env] = v
		}
		return copied
	}, nil
}

// holds reports whether data has one of values, as it is or as a URL would carry it.
func holds(data []byte, values map[string]bool) bool {
	for value := range values {
		if bytes.Contains(data, []byte(value)) || bytes.Contains(data, []byte(url.QueryEscape(value))) {
			return true
		}
	}
	return false
}

// Leaks searches all logs below the bed, the command lines of all processes, the environments of sidecars, and what those
// say of themselves, for all canaries. It returns the places that hold one, and how many places and secrets there were.
func (w *World) Leaks(ctx context.Context) (found []string, places, secrets int, err error) {
	w.canaries.mu.Lock()
	defer w.canaries.mu.Unlock()
	look := func(place string, data []byte) {
		places++
		if holds(data, w.canaries.values) {
			found = append(found, place)
		}
	}
	err = filepath.WalkDir(w.Bed.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".log") {
			return nil //nolint:nilerr // a directory of the database's own is closed to us, and holds no log of ours
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading a log: %w", err)
		}
		look(path, data)
		return nil
	})
	if err != nil {
		return nil, 0, 0, err
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, 0, 0, err
	}
	for _, s := range w.Sidecars {
		if s.Running() {
			processes = append(processes, fmt.Sprintf("/proc/%d/environ", s.PID()))
		}
	}
	for _, path := range processes {
		if data, err := os.ReadFile(path); err == nil { // others have ended
			look(path, data)
		}
	}
	sockets, err := filepath.Glob(filepath.Join(w.Bed.Dir, "*", ".status-*.hyvve"))
	if err != nil {
		return nil, 0, 0, err
	}
	for _, socket := range sockets {
		for _, path := range []string{"/metrics", "/status", "/readyz"} {
			if data, err := ask(ctx, socket, path); err == nil { // its sidecar has been ended
				look(socket+path, data)
			}
		}
	}
	return found, places, len(w.canaries.values), nil
}

// ask asks a sidecar at its socket.
func ask(ctx context.Context, socket, path string) ([]byte, error) {
	resp, err := status.Get(ctx, socket, path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	return io.ReadAll(resp.Body)
}

// place is what an instance has before it is started.
type place struct {
	workload, name string
	dir            string // with the AppRole's login in it
	address        string // to serve on
}

// place makes the place of a workload's nth instance.
func (w *World) place(ctx context.Context, workload string, n int) (place, error) {
	name := instance(workload, n)
	p := place{workload: workload, name: name, dir: filepath.Join(w.Bed.Dir, name)}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return p, err
	}
	port, err := bed.FreePort()
	if err != nil {
		return p, err
	}
	p.address = fmt.Sprintf("127.0.0.1:%d", port)
	return p, w.writeSecrets(ctx, workload, p.dir)
}

// url is what clients of the instance call.
func (p place) url() string { return "http://" + p.address }

func (w *World) writeSecrets(ctx context.Context, workload, dir string) error {
	logical := w.Server.Client.Logical()
	role, err := logical.ReadWithContext(ctx, "auth/approle/role/"+workload+"/role-id")
	if err != nil {
		return err
	}
	secret, err := logical.WriteWithContext(ctx, "auth/approle/role/"+workload+"/secret-id", nil)
	if err != nil {
		return err
	}
	roleID, _ := role.Data["role_id"].(string)
	secretID, _ := secret.Data["secret_id"].(string)
	w.canaries.add(key.NewValue(secretID))
	for name, content := range map[string]string{"role-id": roleID, "secret-id": secretID} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// startSidecar starts a command of the sidecar at a place. Blocks are the configuration without login and names; args
// follow --config.
func (w *World) startSidecar(p place, command, blocks string, args ...string) error {
	config := filepath.Join(p.dir, "sidecar.hcl")
	text := fmt.Sprintf(`
workload = %[1]q
instance = %[2]q
vault {
  address = %[3]q
  auth "approle" {
    role_id_file   = "%[4]s/role-id"
    secret_id_file = "%[4]s/secret-id"
  }
}
`, p.workload, p.name, w.Server.Addr, p.dir)
	if err := os.WriteFile(config, []byte(text+blocks), 0o600); err != nil {
		return err
	}
	sidecar, err := w.Bed.Program(p.name+"-sidecar", bed.Tool("bin", "hyvve-sidecar"), append([]string{command, "--config=" + config}, args...), nil)
	if err == nil {
		w.Sidecars[p.name] = sidecar
	}
	return err
}

// StartSidecarAgain starts the next sidecar of an instance that reads files, after the one before has ended.
func (w *World) StartSidecarAgain(name string) error {
	config := filepath.Join(w.Bed.Dir, name, "sidecar.hcl")
	sidecar, err := w.Bed.Program(name+"-sidecar-again", bed.Tool("bin", "hyvve-sidecar"), []string{"agent", "--config=" + config}, nil)
	if err == nil {
		w.Sidecars[name] = sidecar
	}
	return err
}

// healthBlock checks an instance by its own health page.
func (p place) healthBlock() string {
	return fmt.Sprintf(`
health "http" {
  url         = "%s/health"
  interval    = "1s"
  expect_etag = true
}
`, p.url())
}
