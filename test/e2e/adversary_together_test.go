// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// attackers share one token of a workload of their own, with the policy that we ship, and do all at once what that lets them do.
type attackers struct {
	t       *testing.T
	ctx     context.Context
	vault   *api.Client
	stop    func()
	group   sync.WaitGroup
	counted [5]atomic.Int64
}

const (
	asGhost = iota
	waiting
	asStranger
	reporting
	halfSent
)

func (w *world) attackers() *attackers {
	w.t.Helper()
	policy, err := os.ReadFile(filepath.Join(bed.Repo(), "deploy", "vault", "policies", "web.hcl"))
	if err != nil {
		w.t.Fatal(err)
	}
	root := w.Server.Client
	if err := root.Sys().PutPolicyWithContext(w.t.Context(), "evil", strings.ReplaceAll(string(policy), "/web\"", "/evil\"")); err != nil {
		w.t.Fatal(err)
	}
	secret, err := root.Auth().Token().CreateWithContext(w.t.Context(), &api.TokenCreateRequest{Policies: []string{"evil"}, NoParent: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("hyvve/keys/evil-key", map[string]any{"kind": "token", "env": "EVIL_KEY", "generate": true})
	w.write("hyvve/workloads/evil", map[string]any{"presents": "evil-key", "min_instances": 0})
	config := root.CloneConfig()
	config.MaxRetries, config.HttpClient = 0, nil
	c, err := api.NewClient(config)
	if err != nil {
		w.t.Fatal(err)
	}
	c.SetToken(secret.Auth.ClientToken)
	a := &attackers{t: w.t, vault: c}
	a.ctx, a.stop = context.WithCancel(context.Background())
	w.t.Cleanup(a.end)
	return a
}

func (a *attackers) end() { a.stop(); a.group.Wait() }

// repeat does something all the time, in so many lines at once, with a pause after each.
func (a *attackers) repeat(what, lines int, pause time.Duration, do func(line, n int)) {
	for line := range lines {
		a.group.Go(func() {
			for n := 0; a.ctx.Err() == nil; n++ {
				do(line, n)
				a.counted[what].Add(1)
				select {
				case <-a.ctx.Done():
				case <-time.After(pause):
				}
			}
		})
	}
}

func (a *attackers) ask(path string, query url.Values) (*api.Secret, error) {
	return a.vault.Logical().ReadWithDataWithContext(a.ctx, "hyvve/"+path, query)
}

// attack begins with all of it.
func (a *attackers) attack(proxied string) {
	a.repeat(asGhost, 2, 5*time.Millisecond, func(line, n int) { // T6
		_, _ = a.ask("creds/evil", url.Values{"instance": {fmt.Sprintf("ghost-%d-%d", line, n)}})
	})
	a.repeat(waiting, 200, 100*time.Millisecond, func(line, n int) { // T1
		name := fmt.Sprintf("waits-%d", line)
		secret, err := a.ask("creds/evil", url.Values{"instance": {name}})
		for err == nil && a.ctx.Err() == nil {
			_, err = a.ask("watch/evil", url.Values{"instance": {name}, "etag": {fmt.Sprint(secret.Data["etag"])}, "wait": {"60s"}})
		}
	})
	a.repeat(asStranger, 4, 10*time.Millisecond, func(line, n int) { // T1
		_, _ = a.ask("watch/evil", url.Values{"instance": {fmt.Sprintf("nobody-%d-%d", line, n)}, "wait": {"60s"}})
	})
	large := strings.Repeat("x", 1<<10)
	a.repeat(reporting, 1, 50*time.Millisecond, func(_, _ int) { // T8
		secret, err := a.ask("creds/evil", url.Values{"instance": {"reports"}})
		if err != nil {
			return
		}
		finds := make([]map[string]any, 1800)
		for n := range finds {
			finds[n] = map[string]any{"column": large, "opened": 1}
		}
		_, _ = a.vault.Logical().WriteWithContext(a.ctx, "hyvve/report/evil", map[string]any{
			"instance": "reports", "instance_secret": secret.Data["instance_secret"], "etag": secret.Data["etag"], "healthy": false, "reason": "\x1b[2J" + large,
			"work": []map[string]any{{"id": "r/k/retiring-erase", "done": true, "finds": finds}},
		})
	})
	at, _ := url.Parse(proxied)
	a.repeat(halfSent, 1500, time.Second, func(_, _ int) { // T11
		c, err := (&net.Dialer{Timeout: time.Minute}).DialContext(a.ctx, "tcp", at.Host)
		if err != nil {
			return
		}
		defer context.AfterFunc(a.ctx, func() { _ = c.Close() })()
		defer c.Close() //nolint:errcheck // it has ended
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 30_000))
		_, _ = io.Copy(io.Discard, c) // until it is cut
	})
}

// All that a workload's token and a neighbour in the network may do at once neither makes a request of another workload fail nor
// holds up its rotation much. (The injector is another process, that rotations do not need: TestAdversaryReviewsFillNoMemory.)
func TestAdversaryRotationUnderAttack(t *testing.T) {
	const rotations = 3
	w := start(t, small(true))
	proxied, err := w.StartProxy(t.Context(), 3, guard(t, w.Initial[agentToken].Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	persistent := func(ctx context.Context, token string) (status int) { // who connects in a burst of others may have to do it again
		for range 5 {
			if status = asking(proxied+"/call")(ctx, token); status != 0 {
				break
			}
		}
		return status
	}
	calls, stopCalls := w.presents("agents", "agents-9", agentToken, persistent)
	usual := func() time.Duration {
		var all []time.Duration
		for range rotations {
			begun := time.Now()
			w.follow(w.rotate("agent-service-token"), "done")
			all = append(all, time.Since(begun))
		}
		slices.Sort(all)
		return all[rotations/2]
	}
	without := usual()
	a := w.attackers()
	a.attack(proxied)
	for what, least := range map[int]int64{asGhost: 20, asStranger: 20, reporting: 2} {
		w.waitFor(func() bool { return a.counted[what].Load() >= least })
	}
	with := usual()
	made, refused := calls()
	stopCalls()
	a.end()
	var counted []int64
	for n := range a.counted {
		counted = append(counted, a.counted[n].Load())
	}
	t.Logf("a rotation takes %s without attacks, %s with (ghosts, waits, strangers, reports and half-sent requests that ended: %v); %d calls through the proxy, %d refused", without, with, counted, made, refused)
	if with > 2*without {
		t.Errorf("a rotation takes %s under attack, and %s without", with, without)
	}
	if refused > 0 || made < 100 {
		t.Errorf("%d of %d calls through the proxy were refused", refused, made)
	}
	w.conclude()
}

// waitFor waits until something is so.
func (w *world) waitFor(so func() bool) {
	w.t.Helper()
	deadline := time.After(time.Minute)
	for !so() {
		select {
		case <-deadline:
			w.t.Fatal("the attackers do not get going")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
