// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"errors"
	"fmt"
	"os/exec"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// Need skips a test on real servers under "go test -short", and where set-up or build is missing, as on a fresh clone.
func Need(t testing.TB) {
	t.Helper()
	if testing.Short() {
		kit.Skip(t, "runs on real servers, which -short leaves out")
	}
	if err := equipped(); err != nil {
		kit.Skip(t, fmt.Sprintf(`needs "make setup build": %v`, err))
	}
}

// NeedKubernetes is [Need] for a test on Kubernetes.
func NeedKubernetes(t testing.TB) {
	t.Helper()
	Need(t)
	if _, err := kubernetesTool("kube-apiserver"); err != nil {
		kit.Skip(t, fmt.Sprintf(`needs "make setup": %v`, err))
	}
}

// equipped returns an error that names the first part that set-up or build should have brought.
func equipped() error {
	for _, built := range []string{Tool("plugins", PluginName), Tool("bin", "hyvve-sidecar"), Tool("bin", "hyvve-demo")} {
		if !exists(built) {
			return fmt.Errorf("%s is not built", built)
		}
	}
	if !exists(Tool("tools", "dotenv")) {
		return errors.New("npm's dotenv is not fetched")
	}
	if !exists(Tool("tools", "postgres18")) && !exists("/usr/lib/postgresql/18") {
		return errors.New("PostgreSQL 18 is not fetched")
	}
	for _, find := range []func() (string, error){
		VaultBinary,
		bouncerBinary,
		prometheusBinary,
		func() (string, error) { return exec.LookPath("redis-server") },
		func() (string, error) { return (&Bed{}).postgresBin(0) },
	} {
		if _, err := find(); err != nil {
			return err
		}
	}
	return nil
}
