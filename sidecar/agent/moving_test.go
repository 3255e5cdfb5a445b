// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// rename sends the agent to the configuration of another workload.
func (r *running) rename(workload string) {
	r.t.Helper()
	c := r.config
	c.Workload = workload
	if err := r.agent.reconfigure(c); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) until(what string, holds func() bool) {
	r.t.Helper()
	kit.Until(r.t, what, holds, r.log.String)
}

// A name that Vault refuses costs the instance neither its name nor its lease: it follows its bundle as before.
func TestRenameThatVaultRefuses(t *testing.T) {
	for _, status := range []int{400, 403, 404} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			r := startAgent(t, nil)
			r.await("loaded", loaded("etag-1-0"))
			r.fake.change(func() { r.fake.fail["creds/apo"] = status })
			r.rename("apo")
			r.says(`no bundle for workload \"apo\", instance \"api-1\", at the mount \"hyvve\"`)
			r.until("status shows it", func() bool {
				s := r.agent.board.State()
				return !s.Well() && s.NotTaken != nil && strings.Contains(s.NotTaken.Error, "apo")
			})
			r.fake.change(func() { r.fake.version = 2 })
			r.await("the next version", loaded("etag-2-0"))
			if n := r.fake.count("leave"); n != 0 || strings.Contains(r.log.String(), "configuration taken") {
				t.Errorf("the instance was left %d times; log:\n%s", n, r.log)
			}
			r.rename("web")
			r.says("configuration taken")
			r.await("loaded as the other", loaded("etag-2-0"))
			r.until("the former instance is left", func() bool { return r.fake.count("leave/api") == 1 })
			r.stop()
			if n := r.fake.count("leave/web"); n != 1 {
				t.Errorf("the instance was left %d times at the end, want 1", n)
			}
		})
	}
}

// While Vault is away, the instance stays what it is; the other configuration is taken once the other bundle was read.
func TestRenameWhileVaultIsAway(t *testing.T) {
	r := startAgent(t, nil)
	r.await("loaded", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.fail["creds/web"] = 503 })
	r.rename("web")
	r.says("configuration of another instance not taken yet")
	r.fake.change(func() { r.fake.version = 2 })
	r.await("the next version", loaded("etag-2-0"))
	if n := r.fake.count("leave"); n != 0 {
		t.Errorf("the instance was left %d times", n)
	}
	r.fake.change(func() { delete(r.fake.fail, "creds/web") })
	r.says("configuration taken")
	r.until("the former instance is left", func() bool { return r.fake.count("leave/api") == 1 })
	if n := r.fake.secret; n != 3 {
		t.Errorf("%d reads were served, want 2 of the one bundle and 1 of the other", n)
	}
}

// The workload may use what the former instance presents until it has loaded the other bundle: so long the former lease is
// extended.
func TestRenameHoldsTheFormerLease(t *testing.T) {
	for _, end := range []string{"loaded", "stopped", "back"} {
		t.Run(end, func(t *testing.T) {
			r := startAgentWith(t, t.TempDir(), nil, func(r *running, _ *Config) { r.fake.lease = 1 })
			r.await("loaded", loaded("etag-1-0"))
			r.reloads.set(errors.New("it hangs"))
			r.fake.change(func() { r.fake.suffix = "-web" })
			r.rename("web")
			r.says("workload not reloaded")
			before := r.fake.count("extend/api")
			r.until("the former lease is extended", func() bool { return r.fake.count("extend/api") > before+3 })
			if n := r.fake.count("leave"); n != 0 {
				t.Errorf("an instance was left %d times", n)
			}
			switch end {
			case "stopped":
				r.stop()
			case "back":
				r.rename("api")
				r.until("the instance is what it was", func() bool { return strings.Count(r.log.String(), "configuration taken") == 2 })
				fallthrough
			default:
				r.reloads.set(nil)
			}
			left := map[string]string{"loaded": "leave/api", "stopped": "leave/api", "back": "leave/web"}[end]
			r.until("the former instance is left", func() bool { return r.fake.count(left) == 1 })
			if n := r.fake.count("leave/api"); end == "back" && n != 0 {
				t.Errorf("the instance that it is again was left %d times", n)
			}
			if end == "back" && !slices.Contains(r.fake.proofs, "secret-1") {
				t.Errorf("the instance that it is again was not proved by its secret: %q", r.fake.proofs)
			}
		})
	}
}

// SIGHUP once more while the bundle of another instance cannot be read, or is being read: the same login reads it. Vault may have served
// the read before, and then the name is not free to another login.
func TestRenameAgainReadsByTheSameLogin(t *testing.T) {
	for name, begin := range map[string]func(r *running) (end func()){
		"unavailable": func(r *running) func() {
			r.fake.change(func() { r.fake.fail["creds/web"] = 503 })
			r.rename("web")
			r.says("configuration of another instance not taken yet")
			return func() { r.fake.change(func() { clear(r.fake.fail) }) }
		},
		"silent": func(r *running) func() {
			release := r.silence("creds/web")
			r.rename("web")
			r.until("a read waits", func() bool { return r.fake.count("creds/web") == 1 })
			return release
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := startAgent(t, nil)
			r.await("loaded", loaded("etag-1-0"))
			end := begin(r)
			r.config.Targets = slices.Clone(r.config.Targets)
			r.config.Targets[0].Format = render.Dotenv // of which the engine hears
			reads := r.fake.count("creds/web")
			r.rename("web")
			r.until("the loop has it", func() bool { return len(r.agent.next) == 0 })
			r.until("it is read again", func() bool { return r.fake.count("creds/web") > reads })
			end()
			r.says(`"configuration taken","workload":"web"`)
			if n := r.fake.count(lookup); n != 2 {
				t.Errorf("%d logins, want one of each instance", n)
			}
		})
	}
}

// A configuration that Vault has refused is read by another login when it is sent again: the policies may be others.
func TestRenameAfterARefusalLogsIn(t *testing.T) {
	r := startAgent(t, nil)
	r.await("loaded", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.fail["creds/web"] = 403 })
	r.rename("web")
	r.says("configuration not taken")
	r.fake.change(func() { clear(r.fake.fail) })
	r.rename("web")
	r.says(`"configuration taken","workload":"web"`)
	if n := r.fake.count(lookup); n != 3 {
		t.Errorf("%d logins, want another one after the refusal", n)
	}
}
