// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/demo"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform"
)

const (
	glassRounds = 3
	glassWait   = 2 * time.Minute
)

// breakGlass measures how long keys=all compromised=true takes from the command to the end: in the demo's world, under its load, with a
// Vault that stores by Raft. It fails if a request fails.
func breakGlass(ctx context.Context, log io.Writer) (results []Result, err error) {
	b, err := bed.New("bench", log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if closing := b.Close(); err == nil {
			err = closing
		}
	}()
	size := demo.Standard()
	w, err := platform.Build(ctx, b, size)
	if err != nil {
		return nil, err
	}
	if err := w.StartWorkloads(ctx, size.Instances); err != nil {
		return nil, err
	}
	load := w.StartLoad(ctx)
	defer load.Stop()
	var taken []time.Duration
	for range 1 + glassRounds {
		took, err := breakOnce(ctx, w)
		if err != nil {
			return nil, err
		}
		_, _ = fmt.Fprintf(log, "  all keys in %s\n", took.Round(time.Millisecond))
		taken = append(taken, took)
	}
	counts, err := load.Counts(ctx)
	if err == nil && (counts.Failures > 0 || counts.Total() == 0) {
		err = fmt.Errorf("requests: %+v", counts)
	}
	return []Result{alone("break-glass-first", taken[0]), alone("break-glass", median(taken[1:]))}, err
}

// breakOnce rotates all keys in one rotation, as soon as their rows are counted, and returns how long that took.
func breakOnce(ctx context.Context, w *platform.World) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, glassWait)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		plan, err := askForAll(ctx, w, true)
		if err != nil {
			return 0, err
		}
		if len(plan.With) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("the keys are in several rotations: %+v", plan.With)
		case <-ticker.C:
		}
	}
	begun := time.Now()
	r, err := askForAll(ctx, w, false)
	if err != nil {
		return 0, err
	}
	if _, err := platform.Follow(ctx, w.Engine, r.ID, func(now api.Rotation) { r.Outcome = now.Outcome }); err != nil {
		return 0, err
	}
	took := time.Since(begun)
	if r.Outcome != "done" || len(r.LeftOut) > 0 {
		return 0, fmt.Errorf("rotation %s is %s, and leaves out %+v", r.ID, r.Outcome, r.LeftOut)
	}
	return took, nil
}

// askForAll writes the command, or plans it.
func askForAll(ctx context.Context, w *platform.World, dry bool) (r api.RotationSummary, err error) {
	secret, err := w.Server.Client.Logical().WriteWithContext(ctx, bed.Mount+"/rotate", map[string]any{"keys": "all", "compromised": true, "detailed": true, "dry_run": dry})
	if err != nil {
		return r, err
	}
	data, err := json.Marshal(secret.Data)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}
