// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
)

// VaultBlock says where Vault is and how to log in.
type VaultBlock struct {
	Address    string `hcl:"address,optional" type:"URL" default:"VAULT_ADDR" flag:"vault-addr" annotation:"vault-addr" doc:"URL of Vault, or of the nodes of its cluster, separated by commas."`
	Mount      string `hcl:"mount,optional" type:"path" default:"hyvve" flag:"mount" annotation:"mount" doc:"Path where the engine is mounted."`
	Namespace  string `hcl:"namespace,optional" type:"path" annotation:"vault-namespace" doc:"Namespace of Vault Enterprise."`
	CACert     string `hcl:"ca_cert,optional" type:"file" excludes:"ca_path" doc:"Authority of the certificate of Vault, PEM."`
	CAPath     string `hcl:"ca_path,optional" type:"directory" excludes:"ca_cert" doc:"Authorities of the certificate of Vault."`
	ServerName string `hcl:"tls_server_name,optional" type:"name" default:"that of the address" annotation:"vault-server-name" doc:"Name that the certificate of Vault must have."`
	ClientCert string `hcl:"client_cert,optional" type:"file" doc:"Certificate of the connection, with client_key."`
	ClientKey  string `hcl:"client_key,optional" type:"file" doc:"Private key of client_cert."`
	// AllowSkipVerify consents to VAULT_SKIP_VERIFY in the environment.
	AllowSkipVerify bool `hcl:"allow_skip_verify,optional" doc:"Accepts VAULT_SKIP_VERIFY in the environment. For tests only."`

	Auth     AuthBlock      `hcl:"auth,block"`
	LastGood *LastGoodBlock `hcl:"last_good,block"`
}

// AuthBlock is a way to log in.
type AuthBlock = login.Settings

func (c *Checked) checkVault() (errs []error) {
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
	} else if strings.Contains(c.Vault.Address, "@") { // errors of Vault's client quote it
		return append(errs, errors.New("vault: address holds a user or a password, which would stand in logs; take it out"))
	} else if _, err := client.Addresses(c.Vault.Address); err != nil {
		errs = append(errs, fmt.Errorf("vault: address: %w", err))
	}
	var err error
	if c.Vault.Auth, err = v.Auth.Check(); err != nil {
		errs = append(errs, err)
	}
	errs = append(append(errs, c.Vault.checkSkipVerify()), c.Vault.checkTLS()...)
	if c.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			errs = append(errs, fmt.Errorf("instance is missing, and the host has no name: %w", err))
		}
		c.Instance = host + "-" + c.Workload + "-" + c.Place()
	}
	if err := key.ValidateInstance(c.Instance); err != nil {
		errs = append(errs, err)
	}
	return append(errs, c.checkLastGood()...)
}

// checkTLS refuses what contradicts itself, or would have no effect.
func (v VaultBlock) checkTLS() (errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("vault: "+format, args...)) }
	if v.CACert != "" && v.CAPath != "" {
		fail("ca_cert and ca_path are both set; take one out")
	}
	if (v.ClientCert == "") != (v.ClientKey == "") {
		fail("client_cert and client_key belong together; set both, or none")
	}
	if v.ClientCert != "" && v.Auth.CertFile != "" {
		fail("client_cert and cert_file of auth \"cert\" are both set, and a connection has one certificate; take client_cert and client_key out")
	}
	if strings.HasPrefix(v.Address, "http://") {
		for _, f := range []struct{ name, value string }{
			{"ca_cert", v.CACert}, {"ca_path", v.CAPath}, {"tls_server_name", v.ServerName}, {"client_cert", v.ClientCert}, {"auth \"cert\"", v.Auth.CertFile},
		} {
			if f.value != "" {
				fail("%s needs TLS, and address is %s; write it with https://", f.name, v.Address)
			}
		}
	}
	return errs
}
