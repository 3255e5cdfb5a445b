// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"io"
	"net"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// cutter is a way to a server that breaks a connection off instead of passing the last of so many messages on.
type cutter struct {
	left atomic.Int64 // messages; below 1: it has been cut
	to   string
}

// cut leads a database's URL through a cutter.
func (f *fixture) cut(databaseURL string) (*cutter, string) {
	f.t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		f.t.Fatal(err)
	}
	c := &cutter{to: u.Host}
	u.Host = kit.Serve(f.t, c.pass)
	return c, u.String()
}

func (c *cutter) pass(client net.Conn) {
	server, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer server.Close() //nolint:errcheck // it has ended
	go func() { _, _ = io.Copy(client, server) }()
	message := make([]byte, 1<<20)
	for {
		n, err := client.Read(message)
		if err != nil || c.left.Add(-1) == 0 {
			return
		}
		if _, err := server.Write(message[:n]); err != nil {
			return
		}
	}
}

// Wherever the connection is cut, running the phases again ends well.
func TestConnectionsMayBeCut(t *testing.T) {
	f := newFixture(t)
	way, through := f.cut(f.url + "&pgbouncer=true") // fewer messages: nothing is prepared
	do := func(messages int64) (said int64) {
		t.Helper()
		way.left.Store(messages)
		w := NewWorker(through, Options{AllowSuperuser: true, BatchSize: 8, Sessions: 1})
		for _, phase := range []workload.Phase{workload.PhaseStage, workload.PhaseFlip} {
			if _, err := w.Do(t.Context(), f.work(phase), f.accepts()); err != nil {
				if way.left.Load() > 0 {
					t.Fatalf("%s: %v", phase, err)
				}
				break
			}
		}
		return messages - way.left.Load()
	}
	const cuts = 15 // of all messages, some 350: as many as there is time for
	all := do(1 << 30)
	for n := range int64(cuts) {
		at := 1 + n*all/cuts
		f.do(workload.PhaseRevert)
		f.do(workload.PhaseWipe)
		f.expect(f.oldKey, f.oldAuth)
		if said := do(at); said < at {
			t.Errorf("all is said in %d messages, and nothing is cut", said)
		}
		f.do(workload.PhaseStage)
		f.do(workload.PhaseFlip)
		f.expect(f.newKey, f.oldAuth)
		if t.Failed() {
			t.Fatalf("cut at message %d of %d", at, all)
		}
	}
}
