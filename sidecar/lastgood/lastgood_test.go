// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

const canary = "canary-secret-value"

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func bundle() client.Bundle {
	return client.Bundle{
		Values:   map[string]key.Value{"TOKEN": key.NewValue(canary + "-<2>\x00ü"), "EMPTY": key.NewValue("")},
		Accepts:  map[string][]key.Value{"TOKEN": {key.NewValue(canary + "-2"), key.NewValue(canary + "-1")}},
		Versions: map[string]int{"TOKEN": 2}, AcceptVersions: map[string][]int{"TOKEN": {2, 1}}, Etag: "etag-2",
		Work: []workload.Work{{ID: "w"}}, Instance: "api-1", Secret: key.NewValue("proof"), LeaseID: "lease", LeaseDuration: time.Minute,
		Warnings: []string{"careful"},
	}
}

func newStore(t *testing.T) Store {
	t.Helper()
	dir := t.TempDir()
	k := filepath.Join(dir, "key")
	if err := os.WriteFile(k, []byte(strings.Repeat("ab", 32)+"\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	return Store{Path: filepath.Join(dir, "copy"), KeyFile: k, Owner: Owner{"", "hyvve", "api", "api-1"}}
}

func save(t *testing.T, s Store) {
	t.Helper()
	if err := s.Save(bundle(), now); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsStoredIsReadBack(t *testing.T) {
	s := newStore(t)
	if _, err := s.Load(now); !errors.Is(err, ErrNone) {
		t.Errorf("before the first: %v", err)
	}
	save(t, s)
	c, err := s.Load(now.Add(1000 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	want := bundle()
	equal := func(x, y key.Value) bool { return x.Equal(y) }
	if !maps.EqualFunc(c.Bundle.Values, want.Values, equal) ||
		!maps.EqualFunc(c.Bundle.Accepts, want.Accepts, func(x, y []key.Value) bool { return slices.EqualFunc(x, y, equal) }) ||
		!maps.Equal(c.Bundle.Versions, want.Versions) || !slices.Equal(c.Bundle.AcceptVersions["TOKEN"], []int{2, 1}) ||
		c.Bundle.Etag != want.Etag || !c.Stored.Equal(now) {
		t.Errorf("%+v", c)
	}
	if c.Bundle.LeaseID != "" || c.Bundle.Secret.Reveal() != "" || c.Bundle.Work != nil || c.Bundle.Instance != "" {
		t.Errorf("a lease was stored: %+v", c.Bundle)
	}
	if info, err := os.Stat(s.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestNothingIsReadable(t *testing.T) {
	s := newStore(t)
	save(t, s)
	first, err := os.ReadFile(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	save(t, s)
	second, err := os.ReadFile(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"canary", "TOKEN", "etag"} {
		if bytes.Contains(first, []byte(word)) {
			t.Errorf("%q stands in the copy", word)
		}
	}
	if n := len(header); !bytes.Equal(first[:n], second[:n]) || bytes.Equal(first[n:n+12], second[n:n+12]) {
		t.Error("two copies have the same nonce")
	}
}

// Every byte counts, and every length.
func TestChangedCopiesAreRefused(t *testing.T) {
	s := newStore(t)
	save(t, s)
	whole, err := os.ReadFile(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, at int, data []byte) {
		t.Helper()
		if err := os.WriteFile(s.Path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load(now); !errors.Is(err, ErrNotOpened) || strings.Contains(err.Error(), "canary") {
			t.Fatalf("%s at %d: %v", what, at, err)
		}
	}
	for at := range whole {
		changed := bytes.Clone(whole)
		changed[at] ^= 1
		refused("changed", at, changed)
		refused("cut", at, whole[:at])
	}
	refused("longer", len(whole), append(bytes.Clone(whole), 0))
}

func TestCopiesOfOthersAreRefused(t *testing.T) {
	s := newStore(t)
	save(t, s)
	for name, owner := range map[string]Owner{
		"workload": {"", "hyvve", "web", "api-1"}, "instance": {"", "hyvve", "api", "api-2"}, "mount": {"", "other", "api", "api-1"},
		"namespace": {"team", "hyvve", "api", "api-1"}, "shifted": {"", "hyvvea", "pi", "api-1"},
	} {
		other := s
		other.Owner = owner
		if _, err := other.Load(now); !errors.Is(err, ErrNotOpened) || !strings.Contains(err.Error(), owner.Instance) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.KeyFile = filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(s.KeyFile, []byte(strings.Repeat("cd", 32)), 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(now); !errors.Is(err, ErrNotOpened) || !strings.Contains(err.Error(), s.KeyFile) {
		t.Errorf("another key: %v", err)
	}
}

func TestAge(t *testing.T) {
	s := newStore(t)
	save(t, s)
	s.MaxAge = time.Hour
	for _, c := range []struct {
		after time.Duration
		want  error
	}{
		{0, nil}, {time.Hour, nil}, {time.Hour + time.Second, ErrTooOld}, {-time.Minute, nil}, {-time.Hour, ErrTooOld},
	} {
		if _, err := s.Load(now.Add(c.after)); !errors.Is(err, c.want) {
			t.Errorf("%s later: %v, want %v", c.after, err, c.want)
		}
	}
	s.MaxAge = 0
	if _, err := s.Load(now.Add(-time.Hour)); err != nil {
		t.Errorf("without a bound, from the future: %v", err)
	}
}

func TestKeyFiles(t *testing.T) {
	random := make([]byte, keySize)
	for i := range random {
		random[i] = byte(i*7 + 1)
	}
	path := filepath.Join(t.TempDir(), "key")
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string // in the error; empty: it is good
	}{
		"raw":          {string(random), 0o400, ""},
		"base64":       {base64.StdEncoding.EncodeToString(random), 0o600, ""},
		"base64, line": {base64.StdEncoding.EncodeToString(random) + "\n", 0o400, ""},
		"base64, URL":  {base64.URLEncoding.EncodeToString(random), 0o400, ""},
		"hex":          {hex.EncodeToString(random) + "\r\n", 0o400, ""},
		"hex, upper":   {strings.ToUpper(hex.EncodeToString(random)), 0o400, ""},
		"for a group":  {string(random), 0o440, "has mode 0440"},
		"for all":      {string(random), 0o604, "has mode 0604"},
		"password":     {"canary-canary-canary-canary-cana", 0o400, "text of 32 characters"},
		"half in hex":  {hex.EncodeToString(random[:16]), 0o400, "text of 32 characters"},
		"short":        {base64.StdEncoding.EncodeToString(random[:16]), 0o400, "does not hold 32 bytes"},
		"long":         {string(random) + "\x01", 0o400, "does not hold 32 bytes"},
		"empty":        {"", 0o400, "does not hold 32 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(path)
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			k, err := ReadKey(path)
			switch {
			case c.want == "" && (err != nil || !bytes.Equal(k, random)):
				t.Errorf("%v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "canary")):
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := ReadKey(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("a directory: %v", err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKey(pipe); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("a pipe that nobody writes to: %v", err)
	}
}

// What was stored stays whole when storing fails.
func TestSavingFails(t *testing.T) {
	s := newStore(t)
	save(t, s)
	if err := os.Chmod(filepath.Dir(s.Path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(client.Bundle{Etag: "etag-3"}, now); err == nil || !strings.Contains(err.Error(), "writable by everybody") {
		t.Error(err)
	}
	good := s
	s.KeyFile = filepath.Join(t.TempDir(), "none")
	if err := s.Save(client.Bundle{Etag: "etag-3"}, now); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "key_file") {
		t.Error(err)
	}
	if c, err := good.Load(now); err != nil || c.Bundle.Etag != "etag-2" {
		t.Errorf("%s, %v", c.Bundle.Etag, err)
	}
	if err := errors.Join(good.Remove(), good.Remove()); err != nil {
		t.Error(err)
	}
	if _, err := good.Load(now); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

// The secret of an instance is sealed as a copy is, and neither is taken for the other.
func TestSecretIsSealed(t *testing.T) {
	s := newStore(t)
	if _, err := s.LoadSecret(); !errors.Is(err, ErrNone) {
		t.Errorf("before the first: %v", err)
	}
	if err := s.SaveSecret(key.NewValue(canary)); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(s.Path); err != nil || bytes.Contains(data, []byte(canary)) {
		t.Errorf("it is stored as it is: %v", err)
	}
	if got, err := s.LoadSecret(); err != nil || got.Reveal() != canary {
		t.Errorf("%v", err)
	}
	other := s
	other.Owner.Instance = "api-2"
	if _, err := other.LoadSecret(); !errors.Is(err, ErrNotOpened) {
		t.Errorf("another instance: %v", err)
	}
	if _, err := s.Load(now); !errors.Is(err, ErrNotOpened) {
		t.Errorf("as a copy: %v", err)
	}
	save(t, s)
	if _, err := s.LoadSecret(); !errors.Is(err, ErrNotOpened) {
		t.Errorf("a copy as a secret: %v", err)
	}
}
