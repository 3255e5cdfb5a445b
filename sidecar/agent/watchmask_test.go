// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func TestFileMask(t *testing.T) {
	for name, text := range map[string]string{
		"dotenv":        "A=1\nTOKEN=" + canary + "\n",
		"dotenv quoted": "TOKEN='" + canary + "'\n",
		"export":        "export TOKEN=\"" + canary + "\"",
		"json":          `{"A":"x","TOKEN":"` + canary + `"}`,
		"json, escaped": `{"TOKEN":"canary\u002dsecret-value"}`,
		"yaml":          "auth:\n  token: " + canary + "\n",
		"one line":      canary + "\n",
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		m := &fileMask{paths: []string{path, "/nowhere"}}
		m.take()
		m.take()
		for _, text := range []string{"TOKEN=other-value", "TOKEN=another-value"} { // neither of which is loaded
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			m.take()
		}
		if got := m.mask("not " + canary + " but another-value"); got != "not [redacted] but [redacted]" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// What is looked at again and is the same does not push out what was there before.
func TestFileMaskOfTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	m := &fileMask{paths: []string{path}}
	for _, text := range []string{"TOKEN=" + canary, "TOKEN=another-value"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		m.take()
		m.take()
	}
	if got := m.mask("not " + canary + " but another-value"); got != "not [redacted] but [redacted]" {
		t.Error(got)
	}
}

// What a command prints of files that something else renders is not logged.
func TestFollowMasks(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(path, []byte("TOKEN="+canary+"-1"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Check(config.File{
		Watch:  &config.WatchBlock{Paths: []string{path}, Stable: "10ms", Poll: "20ms"},
		Reload: &config.ReloadBlock{Method: "command", Command: []string{"sh", "-c", `echo "refused: $(cat "$1")"; exit 1`, "sh", path}},
	})
	if err != nil {
		t.Fatal(err)
	}
	log := &kit.Log{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Follow(ctx, c, nil, slog.New(slog.NewTextHandler(log, nil))) }()
	awaitLog := func(want string) {
		t.Helper()
		kit.Until(t, "the log says "+want, func() bool { return strings.Contains(log.String(), want) }, log.String)
	}
	awaitLog("following files")
	if err := os.WriteFile(path, []byte("TOKEN="+canary+"-2"), 0o600); err != nil {
		t.Fatal(err)
	}
	awaitLog("exit status 1: refused: ")
	cancel()
	if err := <-done; err != nil || strings.Contains(log.String(), canary) {
		t.Errorf("%v; log:\n%s", err, log)
	}
}
