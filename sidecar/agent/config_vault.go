// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

// VaultBlock says where Vault is and how to log in.
type VaultBlock struct {
	Address   string    `hcl:"address,optional"`
	Mount     string    `hcl:"mount,optional"`
	Namespace string    `hcl:"namespace,optional"`
	CACert    string    `hcl:"ca_cert,optional"`
	Auth      AuthBlock `hcl:"auth,block"`
}

// AuthBlock is a way to log in: "token_file" or "approle".
type AuthBlock struct {
	Method       string `hcl:"method,label"`
	Path         string `hcl:"path,optional"`
	RoleIDFile   string `hcl:"role_id_file,optional"`
	SecretIDFile string `hcl:"secret_id_file,optional"`
	Mount        string `hcl:"mount,optional"`
}

func (c *Config) checkVault() (errs []error) {
	v := *c.Vault
	c.Vault = &v
	if c.Workload == "" {
		errs = append(errs, errors.New("workload is missing; name the workload whose keys to load, as in hyvve/workloads"))
	} else if err := key.ValidateName("workload", c.Workload); err != nil {
		errs = append(errs, err)
	}
	if v.Mount == "" {
		c.Vault.Mount = "hyvve"
	}
	if v.Address == "" {
		c.Vault.Address = os.Getenv("VAULT_ADDR")
	}
	if c.Vault.Address == "" {
		errs = append(errs, errors.New("vault: address is missing; set it, or VAULT_ADDR"))
	} else if _, err := client.Addresses(c.Vault.Address); err != nil {
		errs = append(errs, fmt.Errorf("vault: address: %w", err))
	}
	var err error
	if c.Vault.Auth, err = v.Auth.checked(); err != nil {
		errs = append(errs, err)
	}
	if c.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			errs = append(errs, fmt.Errorf("instance is missing, and the host has no name: %w", err))
		}
		c.Instance = host + "-" + c.Workload + "-" + c.place()
	}
	return errs
}

// checked is the block with its defaults; it refuses what is missing or not known.
func (b AuthBlock) checked() (AuthBlock, error) {
	switch b.Method {
	case "token_file":
		if b.Path == "" {
			return b, errors.New("vault: auth \"token_file\": path is missing; name the file that holds the token")
		}
	case "approle":
		if b.RoleIDFile == "" || b.SecretIDFile == "" {
			return b, errors.New("vault: auth \"approle\": role_id_file or secret_id_file is missing; name the files that hold them")
		}
		if b.Mount == "" {
			b.Mount = "approle"
		}
	default:
		methods := []string{"token_file", "approle"}
		return b, fmt.Errorf("vault: auth %q is not known%s (it is one of %s)", b.Method, usage.DidYouMean(b.Method, methods), strings.Join(methods, ", "))
	}
	return b, nil
}
