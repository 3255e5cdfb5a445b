// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// The database's URL may rotate too: each piece of work is done at the one of now, by the same worker until it changes.
func TestDatabaseURLOfNow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "DATABASE_URL")
	write := func(url string) {
		if err := os.WriteFile(file, []byte(url+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("HYVVE_TEST_DATABASE_URL", url)
	}
	for _, block := range []config.ReencryptBlock{{DatabaseURLKey: "DATABASE_URL"}, {DatabaseURLFile: file}, {DatabaseURLEnv: "HYVVE_TEST_DATABASE_URL"}} {
		board := status.NewBoard(status.State{}, nil)
		a := &Agent{config: Config{Checked: config.Checked{File: config.File{Reencrypt: &block}}}, board: board, log: slog.New(slog.DiscardHandler)}
		a.jobs = newJobs(a.reencryptor(), a.mask)
		at := func(url string) Reencryptor {
			t.Helper()
			write(url)
			a.jobs.tasks.Do(func(t *tasks) { t.values = map[string]key.Value{"DATABASE_URL": key.NewValue(url)} })
			w, err := a.jobs.makeWorker()
			if err != nil {
				t.Fatalf("%+v: %v", block, err)
			}
			return w
		}
		first := at("postgresql://app_a:x@db/app")
		if at("postgresql://app_a:x@db/app") != first {
			t.Errorf("%+v: another worker for the same URL, which derives everything anew", block)
		}
		if at("postgresql://app_b:y@db/app") == first {
			t.Errorf("%+v: the URL has changed and the worker has not", block)
		}
		if said := board.State().Warnings; len(said) != 1 || !strings.Contains(said[0], "reencrypt: the server is reached with sslmode prefer") {
			t.Errorf("%+v: warnings %q", block, said)
		}
		at("postgresql://app_b:y@db/app?sslmode=verify-full")
		if said := board.State().Warnings; len(said) != 0 {
			t.Errorf("%+v: it is verified, and warned of: %q", block, said)
		}
	}
	write("")
	for want, block := range map[string]config.ReencryptBlock{
		"the bundle has no value of OTHER": {DatabaseURLKey: "OTHER"},
		"is empty":                         {DatabaseURLFile: file},
		"no such file":                     {DatabaseURLFile: file + "x"},
		"has no HYVVE_TEST_DATABASE_URL":   {DatabaseURLEnv: "HYVVE_TEST_DATABASE_URL"},
	} {
		if _, err := databaseURL(block, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
