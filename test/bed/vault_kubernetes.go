// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hashicorp/vault/api"
)

// authPlugin is Vault's own plugin for auth/kubernetes.
const authPlugin = "vault-plugin-auth-kubernetes"

// reviewer is the namespace, and the account in it, by which Vault asks the API server whose tokens are.
const reviewer = "hyvve-vault"

// KubernetesAuth enables Vault's kubernetes method at auth/MOUNT for the service accounts of k. Roles are up to the caller.
func (v *Vault) KubernetesAuth(ctx context.Context, k *Kubernetes, mount string) error {
	binary := Tool("tools", authPlugin)
	if !exists(binary) {
		return errors.New("no " + authPlugin + ": run scripts/setup (make test and make test-k8s do)")
	}
	if err := addPlugin(v.spec.dir, binary); err != nil {
		return err
	}
	if err := v.register(ctx, authPlugin, api.PluginTypeCredential); err != nil {
		return err
	}
	if err := v.Client.Sys().EnableAuthWithOptionsWithContext(ctx, mount, &api.EnableAuthOptions{Type: authPlugin}); err != nil {
		return fmt.Errorf("enabling auth/%s: %w", mount, err)
	}
	namespace := reviewer + "-" + randomHex(4) // several Vaults may ask one API server
	if err := k.Namespace(ctx, namespace, nil); err != nil {
		return err
	}
	if err := k.AllowReviews(ctx, namespace, "default"); err != nil {
		return err
	}
	token, err := k.Token(ctx, namespace, "default")
	if err != nil {
		return err
	}
	authority, err := os.ReadFile(k.CAFile)
	if err != nil {
		return err
	}
	_, err = v.Client.Logical().WriteWithContext(ctx, "auth/"+mount+"/config", map[string]any{
		"kubernetes_host": k.URL, "kubernetes_ca_cert": string(authority), "token_reviewer_jwt": token, "disable_local_ca_jwt": true,
	})
	return err
}
