// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"os"
	"testing"
)

// NoSkip is the environment variable under which [Skip] fails a test. The targets of the Makefile that set up what
// tests need set it, such as "make test".
const NoSkip = "HYVVE_NO_SKIP"

// Skip skips a test for a reason of one line, which names what is missing and the command that brings it. Under [NoSkip] it
// fails the test. Every test calls it instead of the methods of [testing.TB].
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv(NoSkip) != "" {
		t.Fatalf("%s (no test may be skipped: %s is set)", reason, NoSkip)
	}
	t.Skip(reason) //nolint:forbidigo // the one place
}
