// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// holdUp lets the reads of a workload's bundle wait until the function that it returns is called.
func (r *running) holdUp(workload string) (release func()) {
	held := make(chan struct{})
	r.fake.change(func() { r.fake.hold["creds/"+workload] = held })
	return func() {
		r.fake.change(func() { delete(r.fake.hold, "creds/"+workload) })
		close(held)
	}
}

func (r *running) notTaken() *status.NotTaken { return r.agent.board.State().NotTaken }

// The refusal of a configuration is not shown once a newer one was sent, which is loaded.
func TestRefusalOfAConfigurationThatIsNotTheNewest(t *testing.T) {
	r := startAgent(t, nil)
	r.await("loaded", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.fail["creds/apo"] = 400 })
	release := r.holdUp("apo")
	r.rename("apo")
	r.until("the first is read", func() bool { return r.fake.count("creds/apo") == 1 })
	r.rename("web")
	release()
	r.says("configuration taken")
	if n := r.notTaken(); n != nil {
		t.Errorf("the status shows %q", n.Error)
	}
}

// Another configuration that is loaded ends what the status says of an earlier one, but not of a newer one.
func TestConfigurationThatIsTakenEndsTheRefusal(t *testing.T) {
	r := startAgent(t, nil)
	r.await("loaded", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.fail["creds/apo"] = 400 })
	r.rename("apo")
	r.until("status shows it", func() bool { return r.notTaken() != nil })
	r.rename("web")
	r.says("configuration taken")
	r.until("status does not show it", func() bool { return r.notTaken() == nil })

	release := r.holdUp("api")
	r.rename("api")
	r.until("it is read", func() bool { return r.fake.count("creds/api") == 2 })
	notTaken(r.agent.board, errors.New("a newer one has a mistake"))
	release()
	r.until("configuration taken", func() bool { return strings.Count(r.log.String(), "configuration taken") == 2 })
	r.await("loaded", loaded("etag-1-0"))
	if n := r.notTaken(); n == nil || n.Error != "a newer one has a mistake" {
		t.Errorf("the status shows %+v", n)
	}
}

// A configuration that waits for Vault is shown until it is loaded, or another one is; not in the place of a newer one with a mistake.
func TestConfigurationThatWaitsForVaultIsShown(t *testing.T) {
	r := startAgent(t, nil)
	r.await("loaded", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.fail["creds/web"], r.fake.says = 503, "it has "+canary+"-old" })
	begun := time.Now()
	tries := func(n int) func() bool {
		until := r.fake.count("creds/web") + n
		return func() bool { return r.fake.count("creds/web") >= until }
	}
	r.rename("web")
	r.until("status shows it", func() bool { return r.notTaken() != nil })
	first := r.notTaken()
	for _, part := range []string{`no bundle for workload "web", instance "api-1"`, "Vault is away: ", "it has [redacted]", "tries it again until Vault answers"} {
		if !strings.Contains(first.Error, part) {
			t.Errorf("the status shows %q; want %q", first.Error, part)
		}
	}
	r.until("it is tried again", tries(2))
	if n := r.notTaken(); n == nil || n.At != first.At || n.At.Before(begun) || r.agent.board.State().Well() {
		t.Errorf("the status shows %+v, and before %+v", n, first)
	}
	r.rename("api")
	r.says("configuration taken")
	r.until("status does not show it", func() bool { return r.notTaken() == nil })

	r.rename("web")
	r.until("status shows it", func() bool { return r.notTaken() != nil })
	notTaken(r.agent.board, errors.New("a newer one has a mistake"))
	r.until("it is tried again", tries(2))
	if n := r.notTaken(); n == nil || n.Error != "a newer one has a mistake" {
		t.Errorf("the status shows %+v", n)
	}
	notTaken(r.agent.board, nil)
	r.until("status shows it", func() bool { return r.notTaken() != nil })
	r.fake.change(func() { clear(r.fake.fail) })
	r.until("status does not show it", func() bool { return r.notTaken() == nil })
	r.says(`"configuration taken","workload":"web"`)
}

// A line of the log is one line, and what Vault answers is masked in it. The log of every test is searched for values.
func TestAnswersOfVaultAreMaskedInTheLog(t *testing.T) {
	for code, says := range map[int]string{400: "configuration not taken", 503: "configuration of another instance not taken yet"} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			r := startAgent(t, nil)
			r.await("loaded", loaded("etag-1-0"))
			r.fake.change(func() { r.fake.fail["creds/web"], r.fake.says = code, "it has "+canary+"-old" })
			r.rename("web")
			r.says(says)
			r.fake.change(func() { r.fake.fail["watch"], r.fake.version = code, 2 }) // which ends the watch that is open
			r.says("vault did not take a request")
			for line := range strings.Lines(r.log.String()) {
				if strings.Contains(line, "it has") && (strings.Contains(line, `\n`) || !strings.Contains(line, "[redacted]")) {
					t.Errorf("the log says %s", line)
				}
			}
		})
	}
}

// So it is with what Vault answers about leases.
func TestAnswersAboutLeasesAreMaskedInTheLog(t *testing.T) {
	h := &hanging{in: "check", entered: make(chan struct{}, 1), release: make(chan struct{})}
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, c *Config) {
		r.fake.lease = 1
		h.from = func() bool { return r.fake.count("report") > 0 }
		c.Checker, c.Interval = h, 10*time.Millisecond
	})
	r.await("loaded", loaded("etag-1-0"))
	r.fake.change(func() {
		r.fake.fail["report"], r.fake.fail["leave"], r.fake.says = 400, 400, "it has "+canary+"-old"
		r.fake.version = 2
	})
	r.says(`"lease not extended","during"`)
	close(h.release)
	r.says("vault did not take a request")
	r.stop()
	r.says("engine not told that the instance has ended")
	if strings.Count(r.log.String(), "[redacted]") < 3 {
		t.Errorf("log:\n%s", r.log)
	}
}
