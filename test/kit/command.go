// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// StartsNothing builds the command in the test's own directory, which takes no arguments, and checks that it starts nothing if
// it is asked for help or gets an argument.
func StartsNothing(t *testing.T, name string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), name)
	if output, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for _, c := range []struct {
		arg            string
		status         int
		stdout, stderr string
	}{
		{"--help", 0, "Usage: " + name + "\n", ""},
		{"-h", 0, "Usage: " + name + "\n", ""},
		{"now", 2, "", name + `: "now" is not wanted`},
		{"--listen=:1", 2, "", name + ": flag --listen is not known"},
	} {
		t.Run(c.arg, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // one that serves would not end
			defer cancel()
			var stdout, stderr bytes.Buffer
			cmd := exec.CommandContext(ctx, binary, c.arg)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run() // its status says how it went
			if status := cmd.ProcessState.ExitCode(); status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			if !strings.HasPrefix(stdout.String(), c.stdout) || !strings.HasPrefix(stderr.String(), c.stderr) || (stdout.Len() == 0) != (c.stdout == "") {
				t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
			}
		})
	}
}
