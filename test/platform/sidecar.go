// SPDX-License-Identifier: Apache-2.0

package platform

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// AddWorkload tells the engine of one more workload, as hyvve/workloads/ takes it, and lets its sidecars log in.
func (w *World) AddWorkload(ctx context.Context, name string, data map[string]any) error {
	logical := w.Server.Client.Logical()
	if _, err := logical.WriteWithContext(ctx, "hyvve/workloads/"+name, data); err != nil {
		return fmt.Errorf("workload %s: %w", name, err)
	}
	if err := w.Server.Client.Sys().PutPolicyWithContext(ctx, name, fmt.Sprintf(policy, name)); err != nil {
		return err
	}
	_, err := logical.WriteWithContext(ctx, "auth/approle/role/"+name, map[string]any{"token_policies": name, "token_ttl": "1h"})
	return err
}

// Place makes the directory of one more instance of a workload, for its files, and returns its name and that directory.
func (w *World) Place(workload string, n int) (name, dir string, err error) {
	name = instance(workload, n)
	dir = filepath.Join(w.Bed.Dir, name)
	return name, dir, os.MkdirAll(dir, 0o700)
}

// StartSidecar starts the agent of an instance, whose process is somebody else's. Blocks are the configuration without login
// and names.
func (w *World) StartSidecar(ctx context.Context, workload string, n int, blocks string) error {
	p, err := w.place(ctx, workload, n)
	if err != nil {
		return err
	}
	return w.startSidecar(p, "agent", blocks)
}
