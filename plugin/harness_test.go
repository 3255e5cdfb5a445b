// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
)

// backendTest is a backend over storage in memory, as Vault would call it.
type backendTest struct {
	t       *testing.T
	backend logical.Backend
	storage *logical.InmemStorage
	mount   string
	log     *bytes.Buffer
	mu      sync.Mutex   // of answers: a test may have two calls under way
	answers bytes.Buffer // all that any path but creds/ ever answered
}

func newBackendTest(t *testing.T) *backendTest {
	t.Helper()
	return newBackendTestOf(t, Factory)
}

// newBackendTestOf is one that a factory makes.
func newBackendTestOf(t *testing.T, factory logical.Factory) *backendTest {
	t.Helper()
	b := &backendTest{t: t, storage: &logical.InmemStorage{}, log: &bytes.Buffer{}}
	var err error
	b.backend, err = factory(t.Context(), &logical.BackendConfig{
		Logger:      hclog.New(&hclog.LoggerOptions{Output: b.log, Level: hclog.Trace, Mutex: nil}),
		StorageView: b.storage,
		System: &logical.StaticSystemView{
			DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: 24 * time.Hour,
			PluginEnvironment: &logical.PluginEnvironment{VaultVersion: "1.21.2"},
		},
		BackendUUID: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.backend.Cleanup(context.Background()) })
	return b
}

func (b *backendTest) call(operation logical.Operation, path string, data map[string]any) *logical.Response {
	b.t.Helper()
	req := &logical.Request{Operation: operation, Path: path, Data: data, Storage: b.storage, DisplayName: "tester", ClientToken: "t", MountPoint: b.mount}
	if operation == logical.UpdateOperation {
		if checks, exists, err := b.backend.HandleExistenceCheck(b.t.Context(), req); err == nil && checks && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := b.backend.HandleRequest(b.t.Context(), req)
	if err != nil && resp == nil {
		b.t.Fatalf("%s %s: %v", operation, path, err)
	}
	if resp != nil && !strings.HasPrefix(path, "creds/") {
		text, err := json.Marshal(map[string]any{"data": resp.Data, "warnings": resp.Warnings})
		if err != nil {
			b.t.Fatal(err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.answers.Write(text)
	}
	return resp
}

// write wants success.
func (b *backendTest) write(path string, data map[string]any) map[string]any {
	b.t.Helper()
	resp := b.call(logical.UpdateOperation, path, data)
	if resp.IsError() {
		b.t.Fatalf("%s: %v", path, resp.Error())
	}
	if resp == nil {
		return nil
	}
	return resp.Data
}

func (b *backendTest) read(path string, data ...map[string]any) *logical.Response {
	b.t.Helper()
	var fields map[string]any
	if len(data) > 0 {
		fields = data[0]
	} else if first, _, _ := strings.Cut(path, "/"); slices.Contains([]string{"rotations", "workloads", "keys", "journal", "presets"}, first) && !strings.HasSuffix(path, "/receipt") {
		fields = map[string]any{"detailed": true} // what programs read
	}
	resp := b.call(logical.ReadOperation, path, fields)
	if resp.IsError() {
		b.t.Fatalf("%s: %v", path, resp.Error())
	}
	return resp
}

// stored is all that is in storage.
func (b *backendTest) stored() map[string]string {
	b.t.Helper()
	all := map[string]string{}
	var walk func(prefix string)
	walk = func(prefix string) {
		names, err := b.storage.List(b.t.Context(), prefix)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "/") {
				walk(prefix + name)
				continue
			}
			entry, err := b.storage.Get(b.t.Context(), prefix+name)
			if err != nil || entry == nil {
				b.t.Fatal(prefix+name, err)
			}
			all[prefix+name] = string(entry.Value)
		}
	}
	walk("")
	return all
}

// list returns the names below a path.
func (b *backendTest) list(path string) []string {
	b.t.Helper()
	names, _ := b.call(logical.ListOperation, path, nil).Data["keys"].([]string)
	return names
}

// refuses wants an error that the caller can mend, and nothing changed but that the journal may have one entry more.
func (b *backendTest) refuses(operation logical.Operation, path string, data map[string]any, want string) {
	b.t.Helper()
	before := b.stored()
	resp := b.call(operation, path, data)
	if !resp.IsError() {
		b.t.Errorf("%s %s %v is not refused", operation, path, data)
		return
	}
	if !strings.Contains(resp.Error().Error(), want) {
		b.t.Errorf("%s %s: %q does not say %q", operation, path, resp.Error(), want)
	}
	after := b.stored()
	maps.DeleteFunc(after, func(path, _ string) bool { _, had := before[path]; return !had && strings.HasPrefix(path, "journal/") })
	delete(before, "mount/head") // of the journal
	delete(after, "mount/head")
	if !maps.Equal(before, after) {
		b.t.Errorf("%s %s: storage was changed by what was refused", operation, path)
	}
}
