// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A sidecar has a wrong secret id. Vault would lock its role id after five logins, and refuse the right one, too. The sidecar
// tries it once, says why, and logs in as soon as the right one is in the file.
func TestSidecarWithAWrongSecretID(t *testing.T) {
	t.Parallel() // it waits most of the time
	right := ""
	w := newLoginWorld(t, `
		auth "approle" {
			role_id_file   = "DIR/role-id"
			secret_id_file = "DIR/secret-id"
		}`, func(w *loginWorld, _ string) {
		w.write("sys/auth/approle", map[string]any{"type": "approle"})
		w.write("auth/approle/role/api", map[string]any{"token_policies": "api", "token_ttl": "1h"})
		id, err := w.vault.Client.Logical().ReadWithContext(w.t.Context(), "auth/approle/role/api/role-id")
		if err != nil {
			w.t.Fatal(err)
		}
		secret, err := w.vault.Client.Logical().WriteWithContext(w.t.Context(), "auth/approle/role/api/secret-id", nil)
		if err != nil {
			w.t.Fatal(err)
		}
		right = secret.Data["secret_id"].(string)
		if err := errors.Join(os.WriteFile(filepath.Join(w.dir, "role-id"), []byte(id.Data["role_id"].(string)), 0o600),
			os.WriteFile(filepath.Join(w.dir, "secret-id"), []byte("wrong"), 0o600)); err != nil {
			w.t.Fatal(err)
		}
	})
	w.start()
	w.says("others as soon as they are in", 1)
	<-time.After(8 * time.Second) // in which five logins were made before
	if err := os.WriteFile(filepath.Join(w.dir, "secret-id"), []byte(right), 0o600); err != nil {
		t.Fatal(err)
	}
	w.says("logged in to vault", 1)
	w.holds("the file is there", func() bool { return w.file() != "" })
	if n := strings.Count(w.log.String(), "not logged in to vault"); n > 2 {
		t.Errorf("the sidecar says %d times that it is not logged in:\n%s", n, w.log)
	}
	w.rotate()
}
