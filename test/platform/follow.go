// SPDX-License-Identifier: Apache-2.0

package platform

import (
	"context"
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

// Follow looks at a rotation until it ends, and shows each step and, every other second, what it waits for.
func Follow(ctx context.Context, engine *client.Client, id string, show func(api.Rotation)) (api.Rotation, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	shown, shownAt := "", time.Time{}
	for {
		r, err := engine.Rotation(ctx, id)
		if err != nil {
			return r, fmt.Errorf("rotation %s: %w", id, err)
		}
		if at := r.State + r.Step; at != shown || time.Since(shownAt) > 2*time.Second {
			shown, shownAt = at, time.Now()
			show(r)
		}
		if r.Ended() {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return r, fmt.Errorf("rotation %s is still %s %s: %s", id, r.State, r.Step, r.NextGate)
		case <-ticker.C:
		}
	}
}

// Short cuts a text for one line of a terminal.
func Short(text string) string {
	const most = 110
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "…"
	}
	return text
}
