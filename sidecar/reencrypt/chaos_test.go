// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	crand "crypto/rand"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// chaosSeeds is how many worlds there are: each kills workers, and restarts the server, at other moments.
const chaosSeeds = 20

// workerOrder is what a worker of the chaos reads from its standard input.
type workerOrder struct {
	URL      string
	New, Old string // ENCRYPTION_MASTER_KEY
	Other    string // BETTER_AUTH_SECRET
	Phase    workload.Phase
}

// chaosWorker makes this process a worker, where it was started as one.
func chaosWorker() {
	if os.Getenv("HYVVE_CHAOS_WORKER") == "" {
		return
	}
	var o workerOrder
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	f := &fixture{url: o.URL, oldKey: key.NewValue(o.Old), newKey: key.NewValue(o.New), oldAuth: key.NewValue(o.Other)}
	report, err := NewWorker(o.URL, Options{AllowSuperuser: true, BatchSize: 7, ClaimFor: time.Second}).Do(context.Background(), f.work(o.Phase), f.accepts())
	if left, bad := report.Left(); err == nil && o.Phase != workload.PhaseStage && left+bad > 0 {
		err = fmt.Errorf("%d rows left, %d unreadable", left, bad)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// chaos is a world: an application that reads and rewrites rows all the time, and workers that are killed.
type chaos struct {
	*fixture
	seed   uint64
	random *rand.Rand
	server *bed.Postgres
	pool   *pgxpool.Pool
	rings  [2]*envelope.Keyring // old, new
	salts  [2]envelope.Salt     // of the application
	writes atomic.Int32         // which of the two it writes with

	mu         sync.Mutex
	expected   map[string][]string // plaintexts that a row may have: several while it is not known whether a write took effect
	operations int
	faults     []string
	stop       func()
}

// TestChaos: however workers are killed and the server is restarted, no plaintext is lost or older than what was written, and
// in the end every row opens under the new key and none under the old.
func TestChaos(t *testing.T) {
	server, err := bed.ForTest(t).PostgresWith(t.Context(), bed.PostgresOptions{Settings: map[string]string{
		"synchronous_commit": "on", // the application's own commits must outlast a kill, too
		"log_statement":      "none",
	}})
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(chaosSeeds) {
		c := newChaos(t, server, seed)
		c.run()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func newChaos(t *testing.T, server *bed.Postgres, seed uint64) *chaos {
	t.Helper()
	c := &chaos{
		fixture: &fixture{t: t, oldKey: newKeyValue(t, 32), newKey: newKeyValue(t, 32), oldAuth: newKeyValue(t, 48)},
		seed:    seed, random: rand.New(rand.NewPCG(seed, 0)), server: server, expected: map[string][]string{},
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	c.url, err = server.NewDatabase(t.Context(), fmt.Sprintf("chaos_%d", seed))
	ok(err)
	conn, err := pgx.Connect(t.Context(), c.url)
	ok(err)
	c.rows, err = bed.SeedPlatform(t.Context(), conn, bed.Seeding{MasterKey: c.oldKey, BetterAuth: c.oldAuth, Providers: 120, Servers: 40, Legacy: 5, Connections: 60, Salts: 4})
	ok(err)
	ok(conn.Close(t.Context()))
	for n, v := range []key.Value{c.oldKey, c.newKey} {
		c.rings[n], err = envelope.NewKeyring(key.TagFirst, v)
		ok(err)
		c.salts[n], err = envelope.NewSalt(crand.Reader)
		ok(err)
	}
	for _, r := range c.rows {
		c.expected[r.Table+r.ID] = []string{r.Plaintext}
	}
	c.pool, err = pgxpool.New(t.Context(), c.url)
	ok(err)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	const parts = 3 // each row is one goroutine's alone
	for part := range parts {
		var mine []bed.Row
		for n, r := range c.rows {
			if n%parts == part && r.Layout == key.TagFirst {
				mine = append(mine, r)
			}
		}
		random := rand.New(rand.NewPCG(seed, uint64(part)+1))
		group.Go(func() {
			for ctx.Err() == nil {
				c.operate(random, mine[random.IntN(len(mine))])
			}
		})
	}
	c.stop = func() {
		cancel()
		group.Wait()
		c.pool.Close()
	}
	return c
}

// operate reads a row, compares it with what was written, and writes it again every other time. The server may be away.
func (c *chaos) operate(random *rand.Rand, r bed.Row) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	name := r.Table + r.ID
	var text string
	if err := c.pool.QueryRow(ctx, fmt.Sprintf("SELECT %s FROM %s WHERE id = $1", r.Column, r.Table), r.ID).Scan(&text); err != nil {
		c.away()
		return
	}
	plaintext, err := c.open(text)
	c.mu.Lock()
	c.operations++
	if err != nil || !slices.Contains(c.expected[name], plaintext) {
		c.faults = append(c.faults, fmt.Sprintf("%s: reads %q (%v), expected one of %q", name, plaintext, err, c.expected[name]))
	} else {
		c.expected[name] = []string{plaintext}
	}
	c.mu.Unlock()
	if random.IntN(2) == 0 {
		return
	}
	with := c.writes.Load()
	next := fmt.Sprintf("%s written %d", r.ID, random.Uint64())
	derived, err := c.rings[with].Derive(c.salts[with])
	if err != nil {
		return
	}
	e, err := envelope.Seal(key.TagFirst, derived, c.salts[with], []byte(next), crand.Reader)
	if err != nil {
		return
	}
	c.mu.Lock()
	c.expected[name] = append(c.expected[name], next)
	c.mu.Unlock()
	if _, err := c.pool.Exec(ctx, fmt.Sprintf("UPDATE %s SET %s = $1 WHERE id = $2", r.Table, r.Column), e.String(), r.ID); err != nil {
		c.away()
		return
	}
	c.mu.Lock()
	c.expected[name] = []string{next}
	c.mu.Unlock()
}

// away waits a little for a server that is being restarted.
func (c *chaos) away() { <-time.After(5 * time.Millisecond) }

// open opens an envelope as an application that holds both keys does.
func (c *chaos) open(text string) (string, error) {
	e, err := envelope.Parse(text)
	if err != nil {
		return "", err
	}
	for _, ring := range c.rings {
		if plaintext, err := ring.Open(e); err == nil {
			return string(plaintext), nil
		}
	}
	return "", envelope.ErrKey
}

func (c *chaos) run() {
	c.t.Helper()
	defer c.stop()
	restarts := 2
	for _, phase := range []workload.Phase{workload.PhaseStage, workload.PhaseFlip, workload.PhaseSweep} {
		if phase == workload.PhaseFlip {
			c.writes.Store(1) // all have switched
		}
		if phase != workload.PhaseSweep && restarts > 0 {
			restarts--
			c.underFire(phase, true)
			continue
		}
		c.underFire(phase, false)
	}
	c.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, fault := range c.faults[:min(len(c.faults), 5)] {
		c.t.Errorf("seed %d: %s", c.seed, fault)
	}
	if c.operations < 100 {
		c.t.Errorf("seed %d: only %d operations", c.seed, c.operations)
	}
	c.allNew()
}

// underFire has two workers do a phase. One is killed again and again, until both have ended by themselves.
func (c *chaos) underFire(phase workload.Phase, restart bool) {
	c.t.Helper()
	ended := make(chan error, 2)
	var kills []time.Duration
	for range 3 {
		kills = append(kills, time.Duration(20+c.random.IntN(250))*time.Millisecond)
	}
	go func() { ended <- c.stubborn(phase, nil) }()
	go func() { ended <- c.stubborn(phase, kills) }()
	if restart {
		<-time.After(time.Duration(c.random.IntN(150)) * time.Millisecond)
		c.server.Kill()
		if err := c.server.Start(c.t.Context()); err != nil {
			c.t.Error(err)
		}
	}
	for range 2 {
		if err := <-ended; err != nil {
			c.t.Errorf("seed %d: %s: %v", c.seed, phase, err)
		}
	}
}

// stubborn runs a worker until it has done a phase: it is killed on the way, each time after so long, and started again, also
// when the server was away.
func (c *chaos) stubborn(phase workload.Phase, kills []time.Duration) error {
	var said string
	for range 60 {
		worker := exec.Command(os.Args[0], "-test.run=^$")
		worker.Env = append(os.Environ(), "HYVVE_CHAOS_WORKER=1")
		worker.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		order, err := json.Marshal(workerOrder{c.url, c.newKey.Reveal(), c.oldKey.Reveal(), c.oldAuth.Reveal(), phase})
		if err != nil {
			return err
		}
		var output strings.Builder
		worker.Stdin, worker.Stderr = strings.NewReader(string(order)), &output
		if err := worker.Start(); err != nil {
			return err
		}
		if len(kills) > 0 {
			<-time.After(kills[0])
			kills = kills[1:]
			_ = worker.Process.Kill()
		}
		if err := worker.Wait(); err == nil {
			return nil
		}
		said = output.String()
		c.away()
	}
	return fmt.Errorf("it does not end: %s", said)
}

// allNew wants every row under the new key, with what was written last, and none under the old.
func (c *chaos) allNew() {
	c.t.Helper()
	conn, err := pgx.Connect(c.t.Context(), c.url)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close(c.t.Context()) //nolint:errcheck // of a test
	for _, r := range c.rows {
		var text string
		if err := conn.QueryRow(c.t.Context(), fmt.Sprintf("SELECT %s FROM %s WHERE id = $1", r.Column, r.Table), r.ID).Scan(&text); err != nil {
			c.t.Fatal(err)
		}
		e, err := envelope.Parse(text)
		if err != nil {
			c.t.Fatal(err)
		}
		if r.Layout == key.TagLast {
			continue // a legacy row, which is another key's
		}
		if _, err := c.rings[0].Open(e); err == nil {
			c.t.Errorf("seed %d: %s %s opens under the old key", c.seed, r.Table, r.ID)
		}
		plaintext, err := c.rings[1].Open(e)
		if err != nil || !slices.Contains(c.expected[r.Table+r.ID], string(plaintext)) {
			c.t.Errorf("seed %d: %s %s: %q (%v), expected one of %q", c.seed, r.Table, r.ID, plaintext, err, c.expected[r.Table+r.ID])
		}
	}
}
