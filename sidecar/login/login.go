// SPDX-License-Identifier: Apache-2.0

// Package login gets the sidecar a token of Vault's: from a file, or by AppRole, a service account's token, any other JWT
// or a TLS certificate. Credentials are read again at each login, since they rotate.
package login

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// limit bounds one login: a Vault that takes requests and never answers is not available.
const limit = 15 * time.Second

// Token is what a login gave; the client of the connection has it.
type Token struct {
	TTL       time.Duration // 0: it does not end
	Renewable bool
	Ends      time.Time // zero: never
	Pod, Node string    // of Kubernetes, as the service account's token says; empty: not known
}

func newToken(ttl time.Duration, renewable bool) Token {
	t := Token{TTL: ttl, Renewable: renewable}
	if ttl > 0 {
		t.Ends = time.Now().Add(ttl)
	}
	return t
}

// Method is one way to log in. It keeps what it has unwrapped, since that can be done once only. It may be used by several
// goroutines.
type Method struct {
	settings  Settings
	turn      chan struct{} // one login at a time
	unwrapped unwrapped
	refused   refusals
}

// New makes the method of settings that were checked.
func New(s Settings) *Method { return &Method{settings: s, turn: make(chan struct{}, 1)} }

// Login gets a token, and sets it on the client of the connection. The error is client.ErrUnavailable if Vault is not
// there, client.ErrDenied if it refuses, and another one if what is needed for it is not there. Credentials that Vault has
// refused are not given to it again for a while; meanwhile the error is the same. See [Method.Await].
func (m *Method) Login(ctx context.Context, c *Connection) (Token, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return Token{}, fmt.Errorf("logging in: %w: another login has not ended: %w", client.ErrUnavailable, ctx.Err())
	}
	if err := m.held(); err != nil {
		return Token{}, err
	}
	sum := m.settings.sum()
	token, err := m.try(ctx, c)
	switch {
	case err == nil:
		m.accept()
	case errors.Is(err, client.ErrDenied):
		err = m.refuse(sum, err)
	}
	return token, err
}

// try logs in.
func (m *Method) try(ctx context.Context, c *Connection) (Token, error) {
	if err := c.renewCertificate(); err != nil {
		return Token{}, err
	}
	if m.settings.Method == tokenFile {
		return m.byFile(ctx, c.Vault)
	}
	data, err := m.credentials(ctx, c.Vault)
	if err != nil {
		return Token{}, err
	}
	secret, err := c.Vault.Logical().WriteWithContext(ctx, "auth/"+m.settings.Mount+"/login", data)
	switch {
	case err != nil:
		err = failed(err)
		if m.unwrapped.value != "" && errors.Is(err, client.ErrDenied) {
			err = fmt.Errorf("%w; if the secret id has ended, or was used as often as its role allows, put another wrapping token into secret_id_file", err)
		}
		return Token{}, err
	case secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "":
		return Token{}, fmt.Errorf("logging in: %w: auth/%s/login gave no token; does it ask for a second factor, which a sidecar has not?", client.ErrDenied, m.settings.Mount)
	}
	c.Vault.SetToken(secret.Auth.ClientToken)
	token := newToken(time.Duration(secret.Auth.LeaseDuration)*time.Second, secret.Auth.Renewable)
	if jwt, ok := data["jwt"].(string); ok {
		token.Pod, token.Node = podOf(jwt)
	}
	return token, nil
}

// credentials are the fields of a login request.
func (m *Method) credentials(ctx context.Context, v *api.Client) (map[string]any, error) {
	s := m.settings
	switch s.Method {
	case appRole:
		role, err := read("role_id_file", s.RoleIDFile, os.ReadFile)
		if err != nil {
			return nil, err
		}
		secret, err := m.secretID(ctx, v)
		return map[string]any{"role_id": role, "secret_id": secret}, err
	case cert:
		if s.Name == "" {
			return nil, nil
		}
		return map[string]any{"name": s.Name}, nil
	}
	jwt, err := read("token_path", s.TokenPath, os.ReadFile) // kubelet makes it mode 0644, in a volume of the pod's own
	if err != nil {
		return nil, err
	}
	data := map[string]any{"jwt": jwt}
	if s.Role != "" {
		data["role"] = s.Role
	}
	return data, nil
}

func (m *Method) secretID(ctx context.Context, v *api.Client) (string, error) {
	if !m.settings.SecretIDWrapped {
		return read("secret_id_file", m.settings.SecretIDFile, external.ReadCredentialFile)
	}
	return m.unwrapped.get(ctx, v, wrapping{
		field: "secret_id_file", path: m.settings.SecretIDFile, holds: "secret id",
		from: m.settings.secretIDPath(), pick: func(s *api.Secret) string {
			id, _ := s.Data["secret_id"].(string)
			return id
		},
	})
}

// byFile takes the token that a file holds.
func (m *Method) byFile(ctx context.Context, v *api.Client) (Token, error) {
	var text string
	var err error
	if m.settings.Wrapped {
		text, err = m.unwrapped.get(ctx, v, wrapping{
			field: "path", path: m.settings.Path, holds: "token", from: tokenPath, pick: func(s *api.Secret) string {
				if s.Auth == nil {
					return ""
				}
				return s.Auth.ClientToken
			},
		})
	} else {
		text, err = read("path", m.settings.Path, external.ReadCredentialFile)
	}
	if err != nil {
		return Token{}, err
	}
	v.SetToken(text)
	self, err := v.Auth().Token().LookupSelfWithContext(ctx)
	if err != nil {
		return Token{}, failed(err)
	}
	ttl, err := self.TokenTTL()
	if err != nil {
		return Token{}, failed(err)
	}
	renewable, err := self.TokenIsRenewable()
	return newToken(ttl, renewable && err == nil), nil
}

// Renew renews the token of the connection's client.
func Renew(ctx context.Context, c *Connection) (Token, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	secret, err := c.Vault.Auth().Token().RenewSelfWithContext(ctx, 0)
	switch {
	case err != nil:
		return Token{}, failed(err)
	case secret == nil || secret.Auth == nil:
		return Token{}, fmt.Errorf("logging in: %w: the renewal of the token gave none", client.ErrDenied)
	}
	return newToken(time.Duration(secret.Auth.LeaseDuration)*time.Second, secret.Auth.Renewable), nil
}

// read returns the one word that a file holds. Its error does not quote the file: it may hold a secret.
func read(field, path string, readFile func(path string) ([]byte, error)) (string, error) {
	data, err := readFile(path)
	if err != nil {
		return "", fmt.Errorf("vault: auth: %s: %w", field, err)
	}
	text := strings.TrimSpace(string(data))
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		return "", fmt.Errorf("vault: auth: %s: %s must hold one word and nothing else; it is empty, or holds more", field, path)
	}
	return text, nil
}

// failed says of what Vault answered whether to try again later.
func failed(err error) error {
	if sorted := client.Classify(err); errors.Is(sorted, client.ErrUnavailable) {
		return fmt.Errorf("logging in: %w", sorted)
	}
	return fmt.Errorf("logging in: %w: %w", client.ErrDenied, err)
}
