// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
)

// skipVerify is the variable by which Vault's client takes any certificate.
const skipVerify = "VAULT_SKIP_VERIFY"

// checkSkipVerify refuses that the environment alone switches verification off.
func (v VaultBlock) checkSkipVerify() error {
	skip, err := strconv.ParseBool(os.Getenv(skipVerify)) // what is no boolean, Vault's client refuses
	if set := err == nil && skip; !set || v.AllowSkipVerify {
		return nil
	}
	return errors.New("vault: " + skipVerify + " is set in the environment: any certificate would be taken for Vault's, and anyone on the network path would get every key; " +
		"take it out and name Vault's authority with ca_cert. For a test, set allow_skip_verify = true here")
}

// inClear returns where secrets cross a network without verified TLS, by what the configuration says.
func (c *Checked) inClear() (all []string) {
	warn := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if c.Vault != nil {
		for address := range strings.SplitSeq(c.Vault.Address, ",") {
			if host := clearHost(address); host != "" {
				warn("vault: %s is reached without TLS (http://): the token and all keys can be read and changed on the way; write its address with https://", host)
			}
		}
		if skip, _ := strconv.ParseBool(os.Getenv(skipVerify)); skip && strings.Contains(c.Vault.Address, "https://") {
			warn("vault: its certificate is not verified (%s, allow_skip_verify): anyone on the network path can pose as Vault and read the token and all keys; name its authority with ca_cert", skipVerify)
		}
	}
	if r := c.Reload; r != nil && r.BasicAuthFile+r.BearerTokenFile != "" || r != nil && len(r.HeaderFiles) > 0 {
		if host := clearHost(r.URL); host != "" {
			warn("reload: the credential is sent to %s without TLS (http://); use https://, or a host on this machine", host)
		}
	}
	for _, h := range c.Health {
		if host := clearHost(h.URL); host != "" && h.BearerTokenFile+h.Key != "" {
			warn("health: the credential is sent to %s without TLS (http://); use https://, or a host on this machine", host)
		}
	}
	for _, p := range c.Proxy {
		if host := clearHost(p.Upstream); host != "" {
			warn("proxy of %s: the key is sent to %s without TLS (http://); let the upstream be on this machine", p.Key, host)
		}
	}
	return all
}

// clearHost is the host of an http:// URL that is not this machine; empty of any other URL.
func clearHost(text string) string {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Scheme != "http" {
		return ""
	}
	host := u.Hostname()
	if dsn.Local(host) {
		return ""
	}
	return host
}
