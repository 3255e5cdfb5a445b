// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// wrapping is a response-wrapping token in a file, and what is to be in it.
type wrapping struct {
	field, path string
	holds       string         // in words
	from        *regexp.Regexp // the path of Vault whose answer was wrapped
	pick        func(*api.Secret) string
}

// tokenPath is what wraps tokens: auth/token/create, with a role or not, and create-orphan.
var tokenPath = regexp.MustCompile(`^auth/token/create(-orphan|/[^/]+)?$`)

// secretIDPath is what wraps secret ids of the role; without one, of any role. One of another role does not fit the role id.
func (s Settings) secretIDPath() *regexp.Regexp {
	role := `[^/]+`
	if s.Role != "" {
		role = regexp.QuoteMeta(s.Role)
	}
	return regexp.MustCompile(`^auth/` + regexp.QuoteMeta(s.Mount) + `/role/` + role + `/secret-id$`)
}

// unwrapped is what a wrapping token was exchanged for. That can be done once only, which is what tells that nobody else has.
type unwrapped struct {
	sum   [sha256.Size]byte // of the wrapping token that Vault was asked to unwrap
	asked bool
	value string
}

// get returns what is wrapped. The file is looked at each time: one that holds another wrapping token takes the place of what
// was unwrapped, and one that is gone, as it may be once it has served, does not.
func (u *unwrapped) get(ctx context.Context, v *api.Client, w wrapping) (string, error) {
	token, err := read(w.field, w.path, external.ReadCredentialFile)
	if err != nil {
		if u.value != "" {
			return u.value, nil
		}
		return "", err
	}
	sum := sha256.Sum256([]byte(token))
	if u.value != "" && u.sum == sum {
		return u.value, nil
	}
	// These requests are made with the wrapping token and no other.
	other, err := v.CloneWithHeaders()
	if err != nil {
		return "", fmt.Errorf("vault: auth: %w", err)
	}
	other.ClearToken()
	if err := w.trust(ctx, other, token); err != nil {
		return "", w.wrong(err, u.asked && u.sum == sum)
	}
	u.sum, u.asked, u.value = sum, true, ""
	other.SetToken(token)
	secret, err := other.Logical().UnwrapWithContext(ctx, token)
	if err != nil {
		return "", w.wrong(err, false)
	}
	if secret != nil {
		u.value = w.pick(secret)
	}
	if u.value == "" {
		return "", fmt.Errorf("vault: auth: %s: what the token in %s wraps is no %s; wrap one with -wrap-ttl", w.field, w.path, w.holds)
	}
	return u.value, nil
}

var errOrigin = errors.New("the wrapping token has another origin")

// trust refuses a token that wraps the answer of another path: somebody may have taken what was wrapped, and wrapped
// something of their own. Looking does not use the token up.
func (w wrapping) trust(ctx context.Context, v *api.Client, token string) error {
	secret, err := v.Logical().WriteWithContext(ctx, "sys/wrapping/lookup", map[string]any{"token": token})
	if err != nil {
		return err
	}
	from := ""
	if secret != nil {
		from, _ = secret.Data["creation_path"].(string)
	}
	if !w.from.MatchString(from) {
		return fmt.Errorf("%w: the token in %s wraps an answer of %q, and not a %s (%s). Somebody may have put it there in place of the right one: find out who wrote the file, and put a new wrapping token into it",
			errOrigin, w.path, from, w.holds, w.from)
	}
	return nil
}

// wrong says what an error on the way means. A token that Vault does not know may have been unwrapped by somebody else.
func (w wrapping) wrong(err error, lost bool) error {
	if errors.Is(err, errOrigin) {
		return fmt.Errorf("vault: auth: %s: %w", w.field, err)
	}
	err = failed(err)
	switch {
	case errors.Is(err, client.ErrUnavailable):
		return err
	case lost:
		return fmt.Errorf("vault: auth: %s: the token in %s is used up: this sidecar asked to unwrap it, and the answer was lost; put a new wrapping token into the file: %w", w.field, w.path, err)
	}
	return fmt.Errorf("vault: auth: %s: the wrapping token in %s is used, or has ended. A sidecar that was restarted needs a new one. "+
		"If nobody has restarted this one and the token is younger than its TTL, the %s may have been intercepted: look in Vault's audit log for who has unwrapped it, and destroy the %s. "+
		"Then put a new wrapping token into the file: %w", w.field, w.path, w.holds, w.holds, err)
}
