// SPDX-License-Identifier: Apache-2.0

package reload

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// Under nohup, too, what tests start hears SIGHUP: a signal that was ignored at the start would be ignored by all of it.
func TestMain(m *testing.M) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(m.Run())
}
