// SPDX-License-Identifier: Apache-2.0

package config

import (
	"syscall"
	"testing"
)

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]syscall.Signal{"SIGHUP": syscall.SIGHUP, "usr2": syscall.SIGUSR2} {
		if got, err := ParseSignal(name); err != nil || got != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := ParseSignal("SIGHAP"); err == nil {
		t.Error("SIGHAP is taken for a signal")
	}
}
