// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func (f *fakeVault) shown() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.proofs)
}

// What a process has kept of its newest read, the next one shows. One that ends in good order leaves nothing behind.
func TestSecretOutlivesTheProcess(t *testing.T) {
	dir, store := t.TempDir(), storeIn(t)
	kept := store.Path + ".instance"
	killed := startAgentWith(t, dir, nil, func(r *running, c *Config) {
		c.LastGood = store
		r.fake.fail["leave"] = 503 // as if it had never come to that
	})
	killed.await("first", loaded("etag-1-0"))
	killed.stop()
	if data, err := os.ReadFile(kept); err != nil || bytes.Contains(data, []byte("secret-")) {
		t.Fatalf("the secret is not kept, or as it is: %q, %v", data, err)
	}
	next := startAgentWith(t, dir, nil, func(_ *running, c *Config) { c.LastGood = store })
	next.await("first", loaded("etag-1-0"))
	if shown := next.fake.shown(); len(shown) == 0 || shown[0] != "secret-1" {
		t.Errorf("the next process shows %q", shown)
	}
	next.fake.change(func() { next.fake.version = 2 })
	next.await("second", loaded("etag-2-0"))
	if shown := next.fake.shown(); len(shown) != 2 || shown[1] != "secret-1" { // of this Vault's first read
		t.Errorf("it shows %q then", shown)
	}
	next.stop()
	if _, err := os.Stat(kept); !os.IsNotExist(err) {
		t.Errorf("the secret of what has ended is kept: %v", err)
	}
}

// A secret that was damaged is not shown, and stops nothing.
func TestSecretThatIsDamaged(t *testing.T) {
	dir, store := t.TempDir(), storeIn(t)
	if err := os.WriteFile(store.Path+".instance", []byte("hyvve instance secret 1\nrubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startAgentWith(t, dir, nil, func(_ *running, c *Config) { c.LastGood = store })
	r.await("first", loaded("etag-1-0"))
	r.says("the secret of this instance's last process is not used")
	if shown := r.fake.shown(); !slices.Equal(shown, []string{""}) {
		t.Errorf("it shows %q", shown)
	}
}

// Where there is no place for the secret, as with exec without files, the log says what that means, and what to do; where there is one, it
// says nothing of that.
func TestSecretWithoutAPlace(t *testing.T) {
	const says = "there is no place where the instance's secret could be kept"
	r := startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) { c.Render = nil })
	r.says(says)
	r.says("add last_good to the vault block, or a render block")
	r = startAgentWith(t, t.TempDir(), nil, func(_ *running, c *Config) { c.Render, c.LastGood = nil, storeIn(t) })
	r.await("first", loaded("etag-1-0"))
	if strings.Contains(r.log.String(), says) {
		t.Errorf("it says so with a place: %s", r.log.String())
	}
}

// Under a policy of an earlier release the bundle is read as it was then, with one warning, until the next login.
func TestPolicyWithoutWrites(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, _ *Config) { r.fake.readOnly = true })
	r.await("first", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.version = 2 })
	r.await("second", loaded("etag-2-0"))
	kit.Until(t, "it reads twice", func() bool { return r.fake.count("creds") == 3 }, r.log.String) // one write, two reads
	if n := strings.Count(r.log.String(), "Add \\\"update\\\" to the capabilities"); n != 1 {
		t.Errorf("it warns %d times: %s", n, r.log.String())
	}
}
