// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// startAwaited starts a sidecar without Vault that ends unless somebody waits for it.
func startAwaited(t *testing.T, dir string) (r *running, socket string) {
	t.Helper()
	socket = filepath.Join(dir, "sidecar.sock")
	r = startAgentWith(t, dir, nil, func(r *running, c *Config) {
		r.fake.fail["creds"] = http.StatusServiceUnavailable
		c.Socket, c.Status = socket, &config.StatusBlock{Socket: socket, EndUnlessAwaited: true}
	})
	return r, socket
}

// waits is a hook that holds the workload back.
func waits(t *testing.T, socket string) (leave func(), ended <-chan int) {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	end := make(chan int, 1)
	go func() {
		var out, errs bytes.Buffer
		end <- usage.Run(ctx, NewStatus(), []string{"--socket=" + socket, "--ready", "--wait=10m"}, &out, &errs)
	}()
	t.Cleanup(leave)
	return leave, end
}

func runs(t *testing.T, socket string) bool {
	t.Helper()
	_, err := ask(t.Context(), socket, "/status")
	return err == nil
}

// Nobody comes to wait: the sidecar ends, and says why.
func TestNobodyWaits(t *testing.T) {
	begun := time.Now()
	r, socket := startAwaited(t, t.TempDir())
	r.ends = status.ErrAbandoned
	kit.Until(t, "it runs", func() bool { return runs(t, socket) })
	kit.Until(t, "it has ended", func() bool { return !runs(t, socket) })
	if took := time.Since(begun); took < awaitedFirst {
		t.Errorf("it has ended after %v", took)
	}
}

// The process that waits is killed, as a kubelet's hook is with the kubelet: the sidecar ends before anybody could take it for one that has
// what its workload needs.
func TestWhoWaitsIsKilled(t *testing.T) {
	r, socket := startAwaited(t, t.TempDir())
	r.ends = status.ErrAbandoned
	leave, _ := waits(t, socket)
	kit.Until(t, "it runs", func() bool { return runs(t, socket) })
	kit.Stays(t, "it runs while somebody waits", awaitedFirst+2*awaitedAgain, func() bool { return runs(t, socket) })
	leave()
	left := time.Now()
	kit.Until(t, "it has ended", func() bool { return !runs(t, socket) })
	if took := time.Since(left); took > time.Second {
		t.Errorf("it has ended after %v", took)
	}
}

// A process that waits gets its answer at once. From then on nobody need wait, also after a restart while Vault is away: the workload runs by then.
func TestWaitedFor(t *testing.T) {
	dir := t.TempDir()
	r, socket := startAwaited(t, dir)
	_, ended := waits(t, socket)
	kit.Until(t, "it runs", func() bool { return runs(t, socket) })
	r.fake.change(func() { delete(r.fake.fail, "creds") })
	if code := <-ended; code != 0 {
		t.Errorf("exit status %d", code)
	}
	r.await("loaded", loaded("etag-1-0"))
	kit.Until(t, "that is noted", r.config.Targets[0].InPlace)
	r.stop()
	r, socket = startAwaited(t, dir)
	_, ended = waits(t, socket)
	if code := <-ended; code != 0 {
		t.Errorf("after a restart: exit status %d", code)
	}
	kit.Stays(t, "it runs once files are in place", awaitedFirst+2*awaitedAgain, func() bool { return runs(t, socket) })
}

// A process that waits for too long learns why, by the probe's words as by the hook's.
func TestWaitsTooLong(t *testing.T) {
	r, socket := startAwaited(t, t.TempDir())
	r.ends = status.ErrAbandoned
	kit.Until(t, "it runs", func() bool { return runs(t, socket) })
	for _, wait := range []string{"300ms", "3500ms"} {
		var out, errs bytes.Buffer
		if code := usage.Run(t.Context(), NewStatus(), []string{"--socket=" + socket, "--ready", "--wait=" + wait}, &out, &errs); code != 1 {
			t.Errorf("%s: exit status %d", wait, code)
		}
		if said := errs.String(); !strings.Contains(said, "not in place yet: ") || !strings.Contains(said, "injected") {
			t.Errorf("%s: %s", wait, said)
		}
	}
	kit.Until(t, "it has ended", func() bool { return !runs(t, socket) }) // since nobody has asked again
}

func TestAwaitedWhere(t *testing.T) {
	const vault = "workload = \"api\"\nvault {\naddress = \"http://127.0.0.1:1\"\nauth \"token_file\" { path = \"/t\" }\n}\n"
	const files = "render \"json\" { path = \"/run/x/y\" }\n"
	for name, c := range map[string]struct{ text, socket string }{
		"exec":      {vault + files + "exec { command = [\"x\"] }\n", "/run/x/s"},
		"watch":     {"watch { paths = [\"/run/x/y\"] }\n", "/run/x/s"},
		"no socket": {vault + files, "none"},
	} {
		f, err := config.Parse([]byte(c.text+"status {\nsocket = \""+c.socket+"\"\nend_unless_awaited = true\n}\n"), "test")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := f.Check(); err == nil || !strings.Contains(err.Error(), "end_unless_awaited is for an agent") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
