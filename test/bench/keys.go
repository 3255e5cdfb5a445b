// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const (
	keysAll   = 10_000
	keysDue   = 500
	makers    = 8
	idleTime  = 20 * time.Second
	barStart  = 5_000  // ms
	barMemory = 200    // MB
	barDue    = 20_000 // ms
)

func keyName(n int) string { return fmt.Sprintf("key-%05d", n) }

// manyKeys measures a mount of ten thousand keys: how long it takes to load its schedule, how much memory that needs,
// how long five hundred rotations take that are due in the same second, and what idle keys write.
func manyKeys(ctx context.Context, p *place) ([]Result, error) {
	vault, err := crowded(p.vault, 2*makers)
	if err != nil {
		return nil, err
	}
	if err := makeKeys(ctx, vault, p.log); err != nil {
		return nil, err
	}
	start, err := restart(ctx, p.vault, vault)
	if err != nil {
		return nil, err
	}
	memory, err := pluginMemory()
	if err != nil {
		return nil, err
	}
	writes, err := idleWrites(ctx, vault)
	if err != nil {
		return nil, err
	}
	due, err := allDue(ctx, vault, p.log)
	if err != nil {
		return nil, err
	}
	return []Result{
		alone("engine-10k-keys-start", start).within(barStart),
		Result{Name: "engine-10k-keys-memory", Unit: "MB", Ours: memory}.within(barMemory),
		alone("engine-10k-keys-due", due).within(barDue),
		Result{Name: "engine-10k-keys-idle-writes", Unit: "writes", Ours: writes}.within(0),
	}, nil
}

// restart kills the plugin, and gives how long it takes until another one has read all records and says what is due.
func restart(ctx context.Context, v *bed.Vault, vault *api.Client) (time.Duration, error) {
	begun := time.Now()
	if n, err := v.KillPlugin(); err != nil || n == 0 {
		return 0, fmt.Errorf("%d processes of the plugin are killed: %w", n, err)
	}
	for {
		status, err := vault.Logical().ReadWithContext(ctx, bed.Mount+"/status")
		switch {
		case err == nil && len(status.Data) == keysAll: // a line for each
			return time.Since(begun), nil
		case ctx.Err() != nil || time.Since(begun) > time.Minute:
			return 0, fmt.Errorf("no answer a minute after the plugin was killed: %w", err)
		}
	}
}

// busyKeys are those that a rotation runs for, or that something blocks.
func busyKeys(ctx context.Context, vault *api.Client) (map[string]any, error) {
	status, err := vault.Logical().ReadWithDataWithContext(ctx, bed.Mount+"/status", map[string][]string{"busy": {"true"}, "detailed": {"true"}})
	if err != nil {
		return nil, err
	}
	keys, ok := status.Data["keys"].(map[string]any)
	if !ok {
		return nil, errors.New("status has no keys")
	}
	return keys, nil
}

// makeKeys makes all keys, most of them to be rotated in a month, and a workload that uses those that will be due.
func makeKeys(ctx context.Context, vault *api.Client, log io.Writer) error {
	if _, err := vault.Logical().WriteWithContext(ctx, bed.Mount+"/config", map[string]any{"soak": 0, "observe": 0}); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(log, "making %d keys\n", keysAll)
	group, ctx := errgroup.WithContext(ctx)
	for m := range makers {
		group.Go(func() error {
			for n := m; n < keysAll; n += makers {
				if _, err := vault.Logical().WriteWithContext(ctx, bed.Mount+"/keys/"+keyName(n), map[string]any{
					"generate": true, "format": "hex", "rotation_period": "720h",
				}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	names := make([]string, 0, keysDue)
	for n := range keysDue {
		names = append(names, keyName(n))
	}
	_, err := vault.Logical().WriteWithContext(context.WithoutCancel(ctx), bed.Mount+"/workloads/"+benchLoad, map[string]any{
		"presents": names, "verifies": names,
	})
	return err
}

// commLength is how much of a program's name /proc/PID/comm has (TASK_COMM_LEN of Linux, without its end).
const commLength = 15

// pluginMemory is the resident memory of the plugin's process, in MB.
func pluginMemory() (float64, error) {
	comms, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	most := 0.0
	for _, comm := range comms {
		name, err := os.ReadFile(comm)
		if err != nil || strings.TrimSpace(string(name)) != bed.PluginName[:commLength] { // vault's begins like it
			continue
		}
		now, err := memoryOf(filepath.Dir(comm), "VmRSS")
		if err != nil {
			return 0, err
		}
		most = max(most, now)
	}
	if most == 0 {
		return 0, errors.New("no process of the plugin is found")
	}
	return most, nil
}

// memoryOf returns a field of a process's status, VmRSS (resident now) or VmHWM (at most so far), in MB; 0 where it has ended.
func memoryOf(process, field string) (float64, error) {
	status, err := os.ReadFile(filepath.Join(process, "status"))
	if err != nil {
		return 0, nil
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kb / 1024, err
		}
	}
	return 0, nil
}

// idleWrites counts what Vault writes below the mount's barrier while nothing is asked of it, over some seconds.
func idleWrites(ctx context.Context, vault *api.Client) (float64, error) {
	before, err := barrierPuts(ctx, vault)
	if err != nil {
		return 0, err
	}
	select {
	case <-time.After(idleTime):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := barrierPuts(ctx, vault)
	if err != nil {
		return 0, err
	}
	if _, err := vault.Logical().WriteWithContext(ctx, bed.Mount+"/config", map[string]any{"soak": 0, "observe": 0}); err != nil {
		return 0, err
	}
	counts, err := barrierPuts(ctx, vault)
	if err == nil && counts == after {
		err = errors.New("vault's counter of writes does not count ours")
	}
	if err != nil {
		return 0, err
	}
	return after - before, nil
}

// barrierPuts is Vault's own counter of writes to storage since its start.
func barrierPuts(ctx context.Context, vault *api.Client) (float64, error) {
	resp, err := vault.Logical().ReadRawWithDataWithContext(ctx, "sys/metrics", map[string][]string{"format": {"prometheus"}})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "vault_barrier_put_count"); ok {
			fields := strings.Fields(rest)
			return strconv.ParseFloat(fields[len(fields)-1], 64)
		}
	}
	return 0, errors.New("vault's metrics do not count writes to storage")
}

// allDue lets keys come due at the next full minute, and returns how long from then until all are rotated, each once. One
// instance uses them all, and follows.
func allDue(ctx context.Context, vault *api.Client, log io.Writer) (time.Duration, error) {
	e := client.New(vault, bed.Mount)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return (&crowd{version: make([]int, 1), at: make([]time.Time, 1), news: make(chan struct{}, 1)}).attend(ctx, e, 0)
	})
	var took time.Duration
	group.Go(func() (err error) {
		defer stop()
		took, err = rotateAll(ctx, vault, e, log)
		return err
	})
	return took, group.Wait()
}

func rotateAll(ctx context.Context, vault *api.Client, e *client.Client, log io.Writer) (time.Duration, error) {
	at := time.Now().UTC().Add(25 * time.Second).Truncate(time.Minute).Add(time.Minute)
	_, _ = fmt.Fprintf(log, "%d keys come due at %s\n", keysDue, at.Format(time.TimeOnly))
	for n := range keysDue {
		if _, err := vault.Logical().WriteWithContext(ctx, bed.Mount+"/keys/"+keyName(n), map[string]any{
			"rotation_period": 0, "rotation_schedule": fmt.Sprintf("%d %d * * *", at.Minute(), at.Hour()),
		}); err != nil {
			return 0, err
		}
	}
	poll := time.NewTicker(endPoll)
	defer poll.Stop()
	for {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if time.Now().Before(at) {
			continue
		}
		ids, err := e.Rotations(ctx)
		if err != nil {
			return 0, err
		}
		busy, err := busyKeys(ctx, vault)
		if err != nil {
			return 0, err
		}
		if len(ids) >= keysDue && len(busy) == 0 {
			return time.Since(at), eachOnce(ctx, vault)
		}
		if time.Since(at) > 5*time.Minute {
			return 0, fmt.Errorf("%d rotations have begun and %d keys are busy after five minutes", len(ids), len(busy))
		}
	}
}

// eachOnce wants every key that was due at version 2.
func eachOnce(ctx context.Context, vault *api.Client) error {
	for n := range keysDue {
		secret, err := vault.Logical().ReadWithContext(ctx, bed.Mount+"/keys/"+keyName(n))
		if err != nil {
			return err
		}
		if v, ok := secret.Data["current_version"].(json.Number); !ok || v.String() != "2" {
			return fmt.Errorf("%s is at version %v, and was due once", keyName(n), secret.Data["current_version"])
		}
	}
	return nil
}
