// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

// requestLimit is longer than any watch.
const requestLimit = 90 * time.Second

// newVault makes a client of Vault. Retries are the agent's own.
func newVault(b *VaultBlock) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.MaxRetries, config.Timeout = 0, requestLimit
	if b.CACert != "" {
		if err := config.ConfigureTLS(&api.TLSConfig{CACert: b.CACert}); err != nil {
			return nil, fmt.Errorf("vault: ca_cert: %w", err)
		}
	}
	v, err := client.NewVault(config, b.Address)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	v.ClearToken()
	if b.Namespace != "" {
		v.SetNamespace(b.Namespace)
	}
	return v, nil
}

// token is what a login gave.
type token struct {
	ttl       time.Duration // 0: it does not end
	renewable bool
}

var errTokenEnds = errors.New("the token ends soon; logging in again")

// login gets a token.
func login(ctx context.Context, v *api.Client, b AuthBlock) (token, error) {
	if b.Method == "token_file" {
		return loginByFile(ctx, v, b.Path)
	}
	role, err := os.ReadFile(b.RoleIDFile)
	if err != nil {
		return token{}, fmt.Errorf("vault: role_id_file: %w", err)
	}
	method, err := approle.NewAppRoleAuth(strings.TrimSpace(string(role)), &approle.SecretID{FromFile: b.SecretIDFile}, approle.WithMountPath(b.Mount))
	if err != nil {
		return token{}, fmt.Errorf("vault: approle: %w", err)
	}
	secret, err := v.Auth().Login(ctx, method)
	if err != nil {
		return token{}, loginError(err)
	}
	return token{time.Duration(secret.Auth.LeaseDuration) * time.Second, secret.Auth.Renewable}, nil
}

func loginByFile(ctx context.Context, v *api.Client, path string) (token, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return token{}, fmt.Errorf("vault: token file: %w", err)
	}
	text := strings.TrimSpace(string(data))
	if text == "" || strings.ContainsFunc(text, unicode.IsSpace) {
		return token{}, fmt.Errorf("vault: token file %s does not hold one token", path)
	}
	v.SetToken(text)
	self, err := v.Auth().Token().LookupSelfWithContext(ctx)
	if err != nil {
		return token{}, loginError(err)
	}
	ttl, err := self.TokenTTL()
	if err != nil {
		return token{}, loginError(err)
	}
	renewable, err := self.TokenIsRenewable()
	return token{ttl, renewable && err == nil}, nil
}

// renewToken renews the token, and gives how long it lasts now.
func renewToken(ctx context.Context, v *api.Client) (time.Duration, error) {
	secret, err := v.Auth().Token().RenewSelfWithContext(ctx, 0)
	if err != nil {
		return 0, loginError(err)
	}
	return time.Duration(secret.Auth.LeaseDuration) * time.Second, nil
}

// share is when to renew what lasts so long: with a third left for trouble.
func share(ttl time.Duration) time.Duration { return ttl * 2 / 3 }

func loginError(err error) error {
	var response *api.ResponseError
	if errors.As(err, &response) && response.StatusCode < 500 && response.StatusCode != 429 {
		return fmt.Errorf("logging in: %w: %w", client.ErrDenied, err)
	}
	return fmt.Errorf("logging in: %w: %w", client.ErrUnavailable, err)
}
