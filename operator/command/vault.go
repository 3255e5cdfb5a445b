// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/cliconfig"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
)

// vault is a client of Vault as the environment describes it, as the vault command does.
type vault struct {
	*api.Client
	address string // for people, without a password
	stored  bool   // the token is the one that "vault login" has stored
}

// newVault makes one.
func newVault() (*vault, error) {
	config := api.DefaultConfig() // reads the environment
	if config.Error != nil {
		return nil, fmt.Errorf("environment: %w", config.Error)
	}
	if os.Getenv(api.EnvVaultMaxRetries) == "" {
		config.MaxRetries = 0 // a person retries, and those who follow do it themselves
	}
	v := &vault{address: redacted(config.Address)}
	var err error
	if v.Client, err = client.NewVault(config, config.Address); err != nil {
		return nil, fmt.Errorf("%s: %w", api.EnvVaultAddress, err)
	}
	if v.Token() == "" {
		v.stored = true
		v.readStored()
	}
	return v, nil
}

// redacted returns addresses, with commas between them, without passwords.
func redacted(addresses string) string {
	all := strings.Split(addresses, ",")
	for n, address := range all {
		u, err := url.Parse(strings.TrimSpace(address))
		if err != nil {
			return "that address"
		}
		all[n] = u.Redacted()
	}
	return strings.Join(all, ",")
}

// readStored takes the token that "vault login" has stored, if there is another one than before.
func (v *vault) readStored() (changed bool) {
	if !v.stored {
		return false
	}
	helper, err := cliconfig.DefaultTokenHelper()
	if err != nil {
		return false
	}
	token, err := helper.Get()
	if token = strings.TrimSpace(token); err != nil || token == "" || token == v.Token() {
		return false
	}
	v.SetToken(token)
	return true
}

// trouble is what keeps a command from its work, and what to do about it.
type trouble struct {
	text    string
	passing bool // Vault may be back by itself
	login   bool // another token helps
	cause   error
}

func (t trouble) Error() string { return t.text }

func (t trouble) Unwrap() error { return t.cause }

// explained returns an error in the words of what to do about it.
func (s *session) explained(ctx context.Context, err error) error {
	var exit usage.Exit
	var explained trouble
	switch {
	case err == nil || errors.As(err, &exit) || errors.As(err, &explained):
		return err
	case errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrDenied) || errors.Is(err, client.ErrRefused):
		return s.troubleOf(ctx, err)
	}
	return err
}

// askLimit bounds how long Vault is asked for the cause of an error.
const askLimit = 5 * time.Second

// troubleOf says what an error of the client means.
func (s *session) troubleOf(ctx context.Context, err error) trouble {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askLimit)
	defer cancel()
	var response *api.ResponseError
	switch {
	case !errors.As(err, &response) && errors.Is(err, client.ErrUnavailable):
		return s.unreachable(err)
	case response == nil:
		return trouble{text: err.Error(), cause: err}
	case errors.Is(err, client.ErrDenied):
		return s.denied(ctx, response, err)
	case errors.Is(err, client.ErrUnavailable):
		return s.unavailable(ctx, response, err)
	case slices.ContainsFunc(response.Errors, func(text string) bool { return strings.Contains(text, "no handler for route") }):
		return s.notMounted(err)
	case response.StatusCode == http.StatusMethodNotAllowed, response.StatusCode == http.StatusNotFound:
		return trouble{text: fmt.Sprintf("%s is not there: either the name is wrong, or what is mounted at %s/ is not this engine, or an earlier release of it (vault secrets list)", s.pathOf(response), s.mount), cause: err}
	}
	return trouble{text: s.translated(said(response)), cause: err}
}

// pathOf returns the path of a request, without the address.
func (s *session) pathOf(response *api.ResponseError) string {
	u, err := url.Parse(response.URL)
	if err != nil {
		return s.mount + "/"
	}
	return strings.TrimPrefix(u.Path, "/v1/")
}

// said returns what Vault has answered, in one line.
func said(response *api.ResponseError) string {
	if len(response.Errors) == 0 {
		return fmt.Sprintf("Vault answered with status %d, and no reason", response.StatusCode)
	}
	return strings.Join(response.Errors, "; ")
}

// unreachable is an error without an answer.
func (s *session) unreachable(err error) trouble {
	var failed *url.Error
	cause := err
	if errors.As(err, &failed) { // it begins with the request
		cause = failed.Err
	}
	t := trouble{text: fmt.Sprintf("Vault at %s does not answer: %v", s.vault.address, cause), passing: true, cause: err}
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		t.text += "; name the file of its certificate authority in VAULT_CACERT"
	case strings.Contains(cause.Error(), "HTTP response to HTTPS client"):
		t.text += "; it speaks plain HTTP: write http:// in VAULT_ADDR"
	case os.Getenv(api.EnvVaultAddress) == "":
		t.text += "; set VAULT_ADDR to the address of Vault"
	default:
		t.text += "; start it, or name another address in VAULT_ADDR"
	}
	return t
}

// unavailable is an answer of a Vault that takes no requests.
func (s *session) unavailable(ctx context.Context, response *api.ResponseError, err error) trouble {
	t := trouble{passing: true, cause: err}
	if status, fault := s.vault.Sys().SealStatusWithContext(ctx); fault == nil && status.Sealed {
		t.text = fmt.Sprintf("Vault at %s is sealed; unseal it with: vault operator unseal", s.vault.address)
		return t
	}
	t.text = fmt.Sprintf("Vault at %s takes no requests now: %s; try again", s.vault.address, said(response))
	return t
}

// denied is an answer to a token that is no good, or to one that may not do this.
func (s *session) denied(ctx context.Context, response *api.ResponseError, err error) trouble {
	t := trouble{cause: err}
	remedy := "log in with: vault login"
	switch {
	case s.vault.Token() == "":
		t.text, t.login = "no token: set VAULT_TOKEN, or "+remedy, true
		return t
	case !s.vault.stored:
		remedy = "VAULT_TOKEN holds it: set another one, or unset it and " + remedy
	}
	invalid := strings.Contains(said(response), "invalid token")
	if !invalid {
		_, fault := s.vault.Auth().Token().LookupSelfWithContext(ctx)
		invalid = errors.Is(client.Classify(fault), client.ErrDenied)
	}
	if invalid {
		t.text, t.login = "the token is not valid any more: it has expired, or was revoked; "+remedy, true
		return t
	}
	t.text = fmt.Sprintf("permission denied on %s: the policies of your token do not allow it, or nothing is mounted at %s/; see them with: vault token lookup", s.pathOf(response), s.mount)
	return t
}

// notMounted is an answer for a path where no engine is.
func (s *session) notMounted(err error) trouble {
	return trouble{text: fmt.Sprintf("no engine is mounted at %s/; name its path with --mount or %s (vault secrets list shows them)", s.mount, mountEnv), cause: err}
}
