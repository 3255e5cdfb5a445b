// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/lastgood"
)

// arriveLate sends an agent from workload "api" to workload "web" so late after the read of its bundle that it has to be read again,
// which Vault is not available for.
func arriveLate(t *testing.T, store *lastgood.Store) *running {
	t.Helper()
	release, working := make(chan struct{}), make(chan struct{}, 100)
	r := startAgentWith(t, t.TempDir(), reencryptor(func(workload.Work) (workload.WorkReport, error) {
		working <- struct{}{}
		<-release // no configuration is loaded meanwhile
		return workload.WorkReport{}, errors.New("it was given up")
	}), func(r *running, c *Config) { r.fake.lease, c.LastGood = 1, store })
	r.await("loaded", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.work = []workload.Work{{ID: "w1", Phase: workload.PhaseStage}} })
	<-working
	r.config.LastGood = nil
	r.rename("web")
	r.until("the other bundle is read", func() bool { return r.fake.count("creds/web") == 1 })
	r.fake.change(func() { r.fake.fail["creds"] = 503 })
	read := time.Now()
	r.until("the read is too old", func() bool { return time.Since(read) > time.Second })
	close(release)
	r.says(`"configuration taken","workload":"web"`)
	r.says("vault did not take a request")
	return r
}

func (r *running) extends(workload string) {
	r.t.Helper()
	before := r.fake.count("extend/" + workload)
	r.until("the lease of "+workload+" is extended", func() bool { return r.fake.count("extend/"+workload) > before+2 })
}

// Back at a former instance whose bundle cannot be read yet, its lease is extended as before, and its secret proves it.
func TestReturnToAFormerInstanceWithoutARead(t *testing.T) {
	for name, store := range map[string]*lastgood.Store{"": nil, "with a copy": storeIn(t)} {
		t.Run(name, func(t *testing.T) {
			r := arriveLate(t, store)
			r.extends("api")
			r.fake.mu.Lock()
			secret := fmt.Sprintf("secret-%d", r.fake.newest["api"])
			r.fake.mu.Unlock()
			kept, err := filepath.Glob(filepath.Join(r.dir, ".instance-*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range kept {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			r.config.LastGood = store
			r.rename("api")
			r.says(`"configuration taken","workload":"api"`)
			if store != nil {
				if err := os.Remove(store.Path + ".instance"); err != nil {
					t.Fatal(err)
				}
				r.until("the workload has loaded the copy", func() bool { return strings.Count(r.log.String(), "workload is healthy") == 2 })
			}
			r.extends("api")
			if n := r.fake.count("leave/web"); n != 1 {
				t.Errorf("the instance whose bundle was never used was left %d times, want 1", n)
			}
			r.fake.change(func() { clear(r.fake.fail); r.fake.version = 2 })
			r.await("loaded", loaded("etag-2-1"))
			r.fake.mu.Lock()
			proved := r.fake.proofs[len(r.fake.proofs)-1]
			r.fake.mu.Unlock()
			if proved != secret {
				t.Errorf("the instance was proved by %q, want %q", proved, secret)
			}
			if n := r.fake.count("leave/api"); n != 0 {
				t.Errorf("the instance that it is again was left %d times", n)
			}
			r.stop()
			if n := r.fake.count("leave/api"); n != 1 || strings.Contains(r.log.String(), "has ended; it counts") {
				t.Errorf("the instance was left %d times at the end; log:\n%s", n, r.log)
			}
		})
	}
}

// A former instance that the sidecar was to be again, and could not, is left when the workload has loaded the bundle of another one.
func TestFormerInstanceThatWasNotReadAgainIsLeft(t *testing.T) {
	store := storeIn(t)
	r := arriveLate(t, store)
	r.config.LastGood = store
	r.rename("api")
	r.until("the workload has loaded the copy", func() bool { return strings.Count(r.log.String(), "workload is healthy") == 2 })
	r.extends("api")
	if n := r.fake.count("leave/api"); n != 0 {
		t.Errorf("the former instance was left %d times", n)
	}
	r.config.LastGood = nil
	r.fake.change(func() { clear(r.fake.fail); r.fake.fail["creds/api"] = 503 })
	r.rename("apo")
	r.await("loaded", loaded("etag-1-1"))
	r.until("the former instance is left", func() bool { return r.fake.count("leave/api") == 1 })
}
