// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
)

// Vault locks the role id of an AppRole for 15 minutes after five refused logins of which none was 15 minutes after the one
// before (user_lockout of the mount). Right credentials are refused then, too, and those of all instances with this role id.
// So that one sidecar never causes it, all but its first two attempts are further apart.
const (
	lockoutReset = 15 * time.Minute
	secondTry    = 2 * time.Minute
	laterTries   = lockoutReset + 2*time.Minute
	mostTries    = 4 // of which none is lockoutReset after the one before, whatever the credentials are
)

// otherTries is how often the methods are tried that lock nothing. Their credentials may be right: Vault refuses the token of a service
// account also while it cannot ask Kubernetes for a review. The limit is well below the default lease of an instance.
var otherTries = backoff.Backoff{First: 5 * time.Second, Limit: time.Minute}

// lookEvery is how often the files of credentials are looked at while no login is due.
const lookEvery = 500 * time.Millisecond

// refusals are what Vault has refused. Credentials that it has refused are not given again before next.
type refusals struct {
	mu    sync.Mutex
	count int
	sum   [sha256.Size]byte // of the credentials
	next  time.Time
	err   error

	chain int // how many tries there were, none lockoutReset after the one before
	last  time.Time
}

// files are the files of credentials.
func (s Settings) files() []string {
	var all []string
	for _, path := range []string{s.Path, s.RoleIDFile, s.SecretIDFile, s.TokenPath, s.CertFile, s.KeyFile} {
		if path != "" {
			all = append(all, path)
		}
	}
	return all
}

// sum is a digest of the credentials as they are in their files now.
func (s Settings) sum() [sha256.Size]byte {
	all := sha256.New()
	for _, path := range s.files() {
		data, err := os.ReadFile(path) //nolint:gosec // named by the configuration
		fmt.Fprintf(all, "%s %d %v\n", path, len(data), err == nil)
		all.Write(data)
	}
	return [sha256.Size]byte(all.Sum(nil))
}

// wait returns how long the credentials are not to be given again; 0: they may be.
func (m *Method) wait() time.Duration {
	r := &m.refused
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.count == 0:
		return 0
	case m.settings.sum() == r.sum:
		return max(time.Until(r.next), 0)
	case m.settings.Method == appRole && r.chain >= mostTries:
		return max(time.Until(r.last.Add(laterTries)), 0)
	}
	return 0
}

// held is the error of a login that is not tried since the same credentials were refused; nil: try it.
func (m *Method) held() error {
	if m.wait() == 0 {
		return nil
	}
	return m.refused.err
}

// refuse notes that Vault has refused the credentials of a digest, and returns what to say of it.
func (m *Method) refuse(sum [sha256.Size]byte, err error) error {
	r := &m.refused
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sum != sum {
		// New credentials of the same role id count for the same lock: they are tried at once, and then rarely.
		r.count = min(r.count, 1)
	}
	r.count++
	if time.Since(r.last) >= lockoutReset {
		r.chain = 0
	}
	r.chain++
	r.sum, r.last = sum, time.Now()
	wait := otherTries.After(r.count)
	if m.settings.Method == appRole {
		if wait = secondTry; r.count > 1 {
			wait = laterTries
		}
	}
	r.next = time.Now().Add(wait)
	text := fmt.Sprintf("; the same credentials are tried again at %s, others as soon as they are in %s", r.next.UTC().Format(time.RFC3339), strings.Join(m.settings.files(), " or "))
	if m.settings.Method == appRole {
		if r.chain >= mostTries {
			r.next = r.last.Add(laterTries)
			text = fmt.Sprintf("; that was the %dth refusal within %s, and no credentials are tried before %s", r.chain, duration.Text(lockoutReset), r.next.UTC().Format(time.RFC3339))
		}
		text += fmt.Sprintf(
			". Vault locks a role id for %[1]s after five refused logins, and then refuses the right secret id, too; to see and to end that: vault read sys/locked-users, vault write -f sys/locked-users/ACCESSOR/unlock/ROLE_ID (ACCESSOR of auth/%[2]s/: vault auth list). A new secret id: vault write -f auth/%[2]s/role/NAME/secret-id",
			duration.Text(lockoutReset), m.settings.Mount,
		)
	}
	r.err = fmt.Errorf("%w%s", err, text)
	return r.err
}

// accept notes that Vault has taken the credentials.
func (m *Method) accept() {
	m.refused.mu.Lock()
	defer m.refused.mu.Unlock()
	m.refused.count, m.refused.chain, m.refused.err = 0, 0, nil
}

// Await returns when credentials may be given to Vault: at once, or, where it has refused them, when they have changed or it is time
// to try them again. The error is that of ctx.
func (m *Method) Await(ctx context.Context) error {
	for {
		wait := m.wait()
		if wait == 0 {
			return nil
		}
		if err := backoff.Wait(ctx, min(wait, lookEvery)); err != nil {
			return fmt.Errorf("logging in: %w: %w", client.ErrUnavailable, err)
		}
	}
}
