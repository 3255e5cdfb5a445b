// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"fmt"
	"runtime"
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

// A node's answer to INFO that has millions of lines takes no more memory than itself.
func TestServerWithAMillionLines(t *testing.T) {
	var text strings.Builder
	text.WriteString(info6)
	for n := range 1_000_000 {
		fmt.Fprintf(&text, "%x:\n", n)
	}
	w := fakeWorld(t, script(map[string]any{"INFO": text.String()}))
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := w.kind.Inspect(t.Context(), w.plan())
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "more than 20000 lines") {
		t.Errorf("%v", err)
	}
	if grown := (after.TotalAlloc - before.TotalAlloc) >> 20; grown > 64 { // the answer has 7 MB, and the fake makes it twice
		t.Errorf("%d MB were allocated", grown)
	}
}

// A sample that remembers no more clients takes the others' logins for logins that it has not seen.
func TestNewcomersAreBounded(t *testing.T) {
	clients := newcomers{}
	look := clients.look(false)
	for n := range maxNewcomers + 10 {
		look(listed{id: fmt.Sprint(n), user: "app"})
	}
	if got := clients.unseen(spending{}, spending{logins: maxNewcomers + 10}); len(clients) != maxNewcomers || got != 10 {
		t.Errorf("%d clients are remembered, and %d logins are unseen", len(clients), got)
	}
}
