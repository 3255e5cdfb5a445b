// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// SecretAccount is the service account of docs/kubernetes-secret.md.
const SecretAccount = "hyvve-metrics"

// AddSecretAccount makes [SecretAccount] in a namespace, with the Role that docs/kubernetes-secret.md describes; with create,
// also the one that lets it create Secrets.
func (k *Kubernetes) AddSecretAccount(ctx context.Context, namespace string, create bool) error {
	path := filepath.Join(Repo(), "docs", "kubernetes-secret.md")
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	blocks := strings.Split(string(page), "```yaml\n")[1:]
	if len(blocks) != 2 || !strings.Contains(blocks[1], `verbs: ["create"]`) {
		return fmt.Errorf("%s has %d blocks of YAML; it should have two: the Role, and the one that creates", path, len(blocks))
	}
	if !create {
		blocks = blocks[:1]
	}
	if err := k.ServiceAccount(ctx, namespace, SecretAccount); err != nil {
		return err
	}
	for _, block := range blocks {
		roles, _, _ := strings.Cut(block, "```")
		if err := k.Apply(ctx, strings.ReplaceAll(roles, "namespace: monitoring", "namespace: "+namespace)); err != nil {
			return err
		}
	}
	return nil
}
