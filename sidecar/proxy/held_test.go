// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func newest(t *testing.T) (*held, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	return newHeld(Key{Env: env, Header: "Authorization", State: path}), path
}

// What the application may hold, and in which order it is asked.
func TestWhatTheApplicationMayHold(t *testing.T) {
	takes := func(versions ...int) func(*testing.T, *held) {
		return func(t *testing.T, k *held) {
			if err := k.take(bundle(versions...)); err != nil {
				t.Fatal(err)
			}
		}
	}
	proves := func(version int) func(*testing.T, *held) {
		return func(_ *testing.T, k *held) { k.proved(token(version)) }
	}
	settles := func(_ *testing.T, k *held) { k.settle() }
	restarts := func(_ *testing.T, k *held) { k.restarted() }
	for name, c := range map[string]struct {
		steps   []func(*testing.T, *held)
		own     []int
		retired []int
	}{
		"at first":                   {[]func(*testing.T, *held){takes(1)}, []int{1}, nil},
		"first, within a rotation":   {[]func(*testing.T, *held){takes(2, 1)}, []int{2, 1}, nil},
		"a rotation begins":          {[]func(*testing.T, *held){takes(1), takes(2, 1)}, []int{1, 2}, nil},
		"and ends":                   {[]func(*testing.T, *held){takes(1), takes(2, 1), takes(2)}, []int{1, 2}, []int{1}},
		"it is taken back":           {[]func(*testing.T, *held){takes(1), takes(2, 1), takes(1)}, []int{1, 2}, []int{2}},
		"after a restart":            {[]func(*testing.T, *held){takes(1), takes(2, 1), proves(2), takes(1)}, []int{2, 1}, []int{2}},
		"it restarts":                {[]func(*testing.T, *held){takes(1), takes(2, 1), takes(2), proves(2)}, []int{2, 1}, []int{1}},
		"the one before is gone":     {[]func(*testing.T, *held){takes(1), takes(2, 1), takes(2), proves(2), settles}, []int{2}, nil},
		"that is told":               {[]func(*testing.T, *held){takes(1), takes(2), restarts, settles}, []int{2}, nil},
		"the one before serves on":   {[]func(*testing.T, *held){takes(1), takes(2), proves(2), proves(1), settles}, []int{1, 2}, []int{1}},
		"a newer one is kept":        {[]func(*testing.T, *held){takes(1), takes(2), proves(2), takes(3), settles}, []int{2, 3}, []int{2}},
		"never restarted":            {[]func(*testing.T, *held){takes(1), takes(2), takes(3), takes(4), takes(5), takes(6)}, []int{1, 6, 5, 4}, []int{1, 4, 5}},
		"restarted in between":       {[]func(*testing.T, *held){takes(1), takes(2), proves(2), takes(3), takes(4), takes(5)}, []int{2, 5, 4, 3}, []int{2, 3, 4}},
		"an unknown value is proved": {[]func(*testing.T, *held){takes(1), proves(9), settles}, []int{1}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			k, path := newest(t)
			t.Cleanup(k.stop)
			for _, step := range c.steps {
				step(t, k)
			}
			values := func(versions []int) (all []string) {
				for _, v := range versions {
					all = append(all, token(v))
				}
				return all
			}
			s := k.now.Load()
			if !slices.Equal(s.own, values(c.own)) {
				t.Errorf("own is %v, want versions %v", s.own, c.own)
			}
			retired := slices.Sorted(slices.Values(s.retired))
			if !slices.Equal(retired, values(c.retired)) {
				t.Errorf("retired is %v, want versions %v", retired, c.retired)
			}
			// Killed now, the next run knows the same values, and no others.
			again := newHeld(Key{Env: env, Header: "Authorization", State: path})
			if err := again.restore(); err != nil {
				t.Fatal(err)
			}
			if got := slices.Sorted(slices.Values(again.now.Load().own)); !slices.Equal(got, slices.Sorted(slices.Values(s.own))) {
				t.Errorf("after a restart own is %v, was %v", got, s.own)
			}
		})
	}
}

// What cannot be stored is not taken up: the application's files must not be written then.
func TestTakeFailsWhole(t *testing.T) {
	k, path := newest(t)
	if err := k.take(bundle(1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := k.take(bundle(2, 1)); err == nil || !strings.Contains(err.Error(), "writable by everybody") {
		t.Errorf("error %v", err)
	}
	if s := k.now.Load(); len(s.own) != 1 || len(s.digests) != 1 {
		t.Errorf("it was taken up: %d own, %d accepted", len(s.own), len(s.digests))
	}
	if err := k.take(client.Bundle{}); err == nil || !strings.Contains(err.Error(), "let the workload verify its key") {
		t.Errorf("a bundle without the key: %v", err)
	}
}

func TestRestoreRefusesWhatIsNotItsOwn(t *testing.T) {
	for _, text := range []string{"canary", `{"own":"canary"}`, `{"own":[],"accepts":["canary"]}`} {
		k, path := newest(t)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := k.restore(); err == nil || !strings.Contains(err.Error(), "remove it") || strings.Contains(err.Error(), "canary") {
			t.Errorf("error %v", err)
		}
	}
	k, _ := newest(t)
	if err := k.restore(); err != nil || k.now.Load() != nil {
		t.Errorf("without a file: %v", err)
	}
}

// The file holds the values and nothing else.
func TestStateForm(t *testing.T) {
	k, path := newest(t)
	if err := k.take(bundle(2, 1)); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(data, &all); err != nil || len(all) != 3 {
		t.Errorf("%v %v", all, err)
	}
}

// The next bundle comes, and the application is restarted with it, while a request is under way.
func TestRequestAcrossARestart(t *testing.T) {
	var p *Proxy
	holds := 2
	upstream := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if holds == 2 {
			take(t, p, 3, 2)
			holds = 3
		}
		if r.Header.Get("Authorization") != "Bearer "+token(holds) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	var address string
	p, address = before(t, upstream, "")
	take(t, p, 2)
	if status, _ := call(t, address, "Bearer "+token(2), "a body"); status != http.StatusOK {
		t.Errorf("%d", status)
	}
}

// While the application holds one value, a request does not wait for the rest of its body.
func TestRequestIsNotHeldBack(t *testing.T) {
	entered := make(chan struct{}, 1)
	p, address := before(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { entered <- struct{}{} }), "")
	take(t, p, 2)
	body, rest := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/", body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 10
	req.Header.Set("Authorization", "Bearer "+token(2))
	done := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			err = resp.Body.Close()
		}
		done <- err
	}()
	_, err = rest.Write([]byte("12345"))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-entered:
	case <-time.After(kit.Patience):
		t.Fatal("the application does not see a request whose body is under way")
	}
	_, err = rest.Write([]byte("67890"))
	if err = errors.Join(err, rest.Close(), <-done); err != nil {
		t.Error(err)
	}
}

// While the application holds one value, its refusal does not wait for the rest of its body.
func TestRefusalIsNotHeldBack(t *testing.T) {
	end := make(chan struct{})
	p, address := before(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_ = http.NewResponseController(w).Flush()
		<-end
	}), "")
	defer close(end)
	take(t, p, 2)
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token(2))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("%d (%v)", resp.StatusCode, err)
	}
}
