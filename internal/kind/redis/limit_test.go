// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"runtime"
	"strings"
	"testing"
)

// A server may announce any size before the driver has seen who it is. Nothing is allocated for it.
func TestReplyThatIsTooLarge(t *testing.T) {
	const words = "answers with more than is allowed; is it another server?"
	nested := raw(strings.Repeat("*1\r\n", 4_000_000))
	for _, tt := range []struct {
		name    string
		answers map[string]any
	}{
		{"a text at login", map[string]any{"AUTH": raw("$1000000000\r\n")}},
		{"a list at login", map[string]any{"AUTH": raw("*100000000\r\n")}},
		{"an error at login", map[string]any{"AUTH": raw("-" + strings.Repeat("x", smallReply) + "\r\n")}},
		{"a line without an end at login", map[string]any{"AUTH": raw("+" + strings.Repeat("x", 2*smallReply))}},
		{"lists in lists at login", map[string]any{"HELLO": raw(strings.Repeat("*1\r\n", 1000))}},
		{"a map", map[string]any{"INFO": raw("%100000000\r\n")}},
		{"a text", map[string]any{"INFO": raw("$1000000000\r\n")}},
		{"a number of texts that is too large", map[string]any{"INFO": info6, "ACL GETUSER": raw("*99999999999999999999\r\n")}},
		{"many lists", map[string]any{"INFO": info6, "ACL GETUSER": raw("*100\r\n" + strings.Repeat("*4000000\r\n", 100))}},
		{"lists in lists", map[string]any{"INFO": info6, "ACL GETUSER": nested}},
		{"a long line", map[string]any{"INFO": raw("+" + strings.Repeat("x", largeReply+1))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := fakeWorld(t, script(tt.answers))
			w.connection.Options[fieldTimeout] = "30s" // for 64 MiB on a busy machine
			c := w.plan()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _, err := w.kind.InUse(t.Context(), c)
			runtime.ReadMemStats(&after)
			w.refuses(err, words)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 8*largeReply {
				t.Errorf("%d MiB were allocated", grown>>20)
			}
		})
	}
}

// A busy server has tens of thousands of sessions, and lists them.
func TestReplyThatIsLarge(t *testing.T) {
	t.Parallel()
	line := "id=1 addr=127.0.0.1:1 laddr=127.0.0.1:6379 fd=8 name=worker age=1 idle=0 flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=20448 argv-mem=10 multi-mem=0 rbs=16384 rbp=16384 obl=0 oll=0 omem=0 tot-mem=37786 events=r cmd=get user=somebody redir=-1 resp=2 lib-name= lib-ver=\n"
	w := fakeWorld(t, script(map[string]any{
		"INFO": info6, "ACL GETUSER": nil, "CLIENT LIST": strings.Repeat(line, 100_000),
	}))
	n, _ := w.inUse(w.plan())
	if n != 0 {
		t.Errorf("in use: %d", n)
	}
}
