// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// parentEnv makes the test binary a parent that starts all parts and waits to be killed.
const parentEnv = "HYVVE_TESTBED_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parentEnv) != "" {
		if err := runParent(); err != nil {
			fmt.Fprintln(os.Stdout, "ERROR", err)
			os.Exit(1)
		}
	}
	Main(m)
}

func runParent() error {
	ctx := context.Background()
	b, err := New("parent", nil)
	if err != nil {
		return err
	}
	p, err := b.Postgres(ctx)
	if err != nil {
		return err
	}
	if err := startRedisParts(ctx, b); err != nil {
		return err
	}
	if _, err := p.Replica(ctx); err != nil {
		return err
	}
	if _, err := b.PostgresWith(ctx, PostgresOptions{Major: 18}); err != nil {
		return err
	}
	if _, err := b.PgBouncer(ctx, p, PgBouncerOptions{AuthQuery: true}); err != nil {
		return err
	}
	c, err := b.Cluster(ctx, VaultOptions{})
	if err != nil {
		return err
	}
	// A session of the server, and a process of the plugin, are there when the parent dies.
	if _, err := pgx.Connect(ctx, p.AdminURL("postgres")); err != nil {
		return err
	}
	if _, err := c.Client.Logical().Read(Mount + "/status"); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "READY", b.Dir)
	select {}
}

// startRedisParts starts one of each, of which one stands still.
func startRedisParts(ctx context.Context, b *Bed) error {
	r, err := b.RedisWith(ctx, RedisOptions{Users: UsersInMemory})
	if err != nil {
		return err
	}
	if _, err := r.Replica(ctx); err != nil {
		return err
	}
	if _, err := b.RedisCluster(ctx, 3, RedisOptions{}); err != nil {
		return err
	}
	return r.Pause()
}

func TestNothingOutlivesAKilledParent(t *testing.T) {
	Need(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), parentEnv+"=1")
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "READY ") {
		_ = cmd.Process.Kill()
		t.Fatalf("the parent said %q, %v", line, err)
	}
	dir := strings.TrimSpace(strings.TrimPrefix(line, "READY "))
	family, err := descendants(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if len(family) < 20 { // three of vault, a plugin, five of redis, pgbouncer, three of postgres and some of their processes
		t.Errorf("only %d processes run below the parent", len(family))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for left := family; len(left) > 0; {
		select {
		case <-deadline:
			t.Fatalf("processes %v outlived their parent", left)
		case <-tick.C:
		}
		var still []int
		for _, pid := range left {
			if alive(pid) {
				still = append(still, pid)
			}
		}
		left = still
	}

	b := ForTest(t) // its New removes what the killed parent left
	if exists(dir) {
		t.Errorf("%s is still there after %s was made", dir, b.Dir)
	}
}

func descendants(pid int) ([]int, error) {
	direct, err := children(pid)
	if err != nil {
		return nil, err
	}
	all := direct
	for _, child := range direct {
		below, err := descendants(child)
		if err != nil {
			return nil, err
		}
		all = append(all, below...)
	}
	return all, nil
}

func TestDurableVaultKeepsItsStateWhenKilled(t *testing.T) {
	b := ForTest(t)
	v, err := b.Vault(t.Context(), VaultOptions{Durable: true, Audit: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Client.Logical().Write(Mount+"/presets/hyvve", map[string]any{"generate": true}); err != nil {
		t.Fatal(err)
	}
	v.Kill()
	if err := v.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	secret, err := v.Client.Logical().Read(Mount + "/keys/jwt-secret")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(secret.Data["current_version"]); got != "1" {
		t.Errorf("current_version is %s after a restart, want 1", got)
	}
}
