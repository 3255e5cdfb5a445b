// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"fmt"
	"strings"
	"testing"
)

// What a server says is quoted in part, and on one line.
func TestServerThatSaysTooMuch(t *testing.T) {
	w := fakeWorld(t, script(map[string]any{"INFO": "-ERR x\x1b[2K" + strings.Repeat("x", 50000)}))
	_, err := w.kind.Inspect(t.Context(), w.plan())
	if err == nil || len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("%.2000q", fmt.Sprint(err))
	}
}
