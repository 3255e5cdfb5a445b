// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// databaseURL is where the rows are now: the URL may be a key that rotates too.
func databaseURL(r config.ReencryptBlock, values map[string]key.Value) (key.Value, error) {
	switch {
	case r.DatabaseURLKey != "":
		if url, ok := values[r.DatabaseURLKey]; ok {
			return url, nil
		}
		return key.Value{}, fmt.Errorf("reencrypt: database_url_key: the bundle has no value of %s; let the workload present its key", r.DatabaseURLKey)
	case r.DatabaseURLFile != "":
		data, err := external.ReadCredentialFile(r.DatabaseURLFile)
		if err != nil {
			return key.Value{}, fmt.Errorf("reencrypt: database_url_file: %w", err)
		}
		if url := strings.TrimSpace(string(data)); url != "" {
			return key.NewValue(url), nil
		}
		return key.Value{}, fmt.Errorf("reencrypt: database_url_file: %s is empty", r.DatabaseURLFile)
	}
	if url := os.Getenv(r.DatabaseURLEnv); url != "" {
		return key.NewValue(url), nil
	}
	return key.Value{}, fmt.Errorf("reencrypt: database_url_env: the environment has no %s", r.DatabaseURLEnv)
}
