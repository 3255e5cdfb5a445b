// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"net"
	"testing"
)

// Serve calls talk for each connection, in a goroutine of its own, and returns the address. It closes a connection when talk
// returns.
func Serve(t testing.TB, talk func(conn net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close() //nolint:errcheck // nothing is pending
				talk(conn)
			}()
		}
	}()
	return l.Addr().String()
}
