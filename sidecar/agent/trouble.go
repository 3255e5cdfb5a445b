// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

// trouble is why Vault did not serve a request, in one line.
type trouble struct {
	text  string
	login bool
	err   error
}

func (t trouble) Error() string { return t.text }

// Unwrap returns the error as it was.
func (t trouble) Unwrap() error { return t.err }

// masked hides values in the text of trouble: Vault, and what is before it, may repeat what a request held.
func (a *Agent) masked(t trouble) trouble {
	t.text = a.mask(t.text)
	return t
}

// troubleOf says what is to be mended, which depends on the request. Vault's own text has several lines.
func (c Config) troubleOf(err error, login bool) trouble {
	text := strings.Join(strings.Fields(err.Error()), " ")
	switch {
	case errors.Is(err, client.ErrUnavailable):
		text = "Vault is away: " + text
	case login:
		text = "cannot log in: " + strings.TrimPrefix(text, "logging in: ")
	case errors.Is(err, client.ErrRefused):
		text = "Vault refuses: " + text
	default:
		mount, name := c.Vault.Mount, c.Workload
		text = fmt.Sprintf("Vault denies: the token has ended, or the policy needs %s/creds/%s, %s/watch/%s and %s/report/%s (docs/sidecar.md, Policy in Vault): %s",
			mount, name, mount, name, mount, name, text)
	}
	return trouble{text, login, err}
}
