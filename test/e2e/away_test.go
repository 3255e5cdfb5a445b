// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Vault is gone for longer than token and lease last, ten minutes in "make test-ha": the workload is not touched, and when Vault is
// back the sidecar is too, with one login, and takes the next rotation up.
func TestVaultIsGoneForLong(t *testing.T) {
	t.Parallel() // it waits most of the time
	away := 15 * time.Second
	if long() {
		away = 10 * time.Minute
	}
	w := newLoginWorld(t, `
		auth "approle" {
			role_id_file   = "DIR/role-id"
			secret_id_file = "DIR/secret-id"
		}`, func(w *loginWorld, _ string) {
		w.write("hyvve/config", map[string]any{"lease_ttl": "10s"})
		w.write("sys/auth/approle", map[string]any{"type": "approle"})
		w.write("auth/approle/role/api", map[string]any{"token_policies": "api", "token_ttl": "10s"})
		id, err := w.vault.Client.Logical().ReadWithContext(w.t.Context(), "auth/approle/role/api/role-id")
		if err != nil {
			w.t.Fatal(err)
		}
		secret := w.write("auth/approle/role/api/secret-id", nil)
		if err := errors.Join(os.WriteFile(filepath.Join(w.dir, "role-id"), []byte(id.Data["role_id"].(string)), 0o600),
			os.WriteFile(filepath.Join(w.dir, "secret-id"), []byte(secret["secret_id"].(string)), 0o600)); err != nil {
			w.t.Fatal(err)
		}
	})
	config, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	reloads := filepath.Join(w.dir, "reloads")
	config = fmt.Appendf(config, "reload \"command\" { command = [\"sh\", \"-c\", \"echo >> %s\"] }\n", reloads)
	if err := os.WriteFile(w.config, config, 0o600); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		data, _ := os.ReadFile(reloads)
		return len(data)
	}
	w.start()
	w.holds("the workload was reloaded", func() bool { return count() == 1 })
	w.rotate()
	held, before := w.file(), count()
	logins := strings.Count(w.log.String(), "logged in to vault")
	if err := w.vault.Stop(); err != nil {
		t.Fatal(err)
	}
	w.says("retry_in", 3)
	select {
	case <-time.After(away):
	case <-t.Context().Done():
	}
	if w.file() != held || count() != before {
		t.Errorf("while Vault was away the workload was reloaded %d times, and its file changed: %v", count()-before, w.file() != held)
	}
	if asked := strings.Count(w.log.String(), "retry_in"); asked > 20+int(away/(7*time.Second)) {
		t.Errorf("Vault was asked %d times in %s", asked, away)
	}
	if err := w.vault.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.says("logged in to vault", logins+1)
	w.rotate()
	if w.file() == held || count() != before+1 {
		t.Errorf("after it %d reloads, want 1", count()-before)
	}
}
