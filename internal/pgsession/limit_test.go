// SPDX-License-Identifier: Apache-2.0

package pgsession

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// liar answers each login by what say writes until it fails.
func liar(t *testing.T, say func(conn net.Conn) error) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close() //nolint:errcheck // of a test
				if _, err := pgproto3.NewBackend(conn, conn).ReceiveStartupMessage(); err != nil {
					return
				}
				for say(conn) == nil { // again and again
				}
			}()
		}
	}()
	return "postgresql://u@" + listener.Addr().String() + "/x?sslmode=disable"
}

// Before the login has succeeded, the server cannot make us hold much memory: neither by one message that it announces as
// long, nor by many messages.
func TestLimit(t *testing.T) {
	n := 0
	for name, say := range map[string]func(net.Conn) error{
		"700 MB": func(conn net.Conn) error {
			_, err := conn.Write([]byte{'R', 0x29, 0xb9, 0x27, 0, 0, 0, 0, 10})
			return err
		},
		"many settings": func(conn net.Conn) error {
			n++
			status, err := (&pgproto3.ParameterStatus{Name: fmt.Sprint(n), Value: strings.Repeat("x", 1<<15)}).Encode(nil)
			if err == nil {
				_, err = conn.Write(status)
			}
			return err
		},
	} {
		config, err := pgconn.ParseConfig(liar(t, say))
		if err != nil {
			t.Fatal(err)
		}
		Limit(config, 1<<20)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = pgconn.ConnectConfig(t.Context(), config)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: a session", name)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 {
			t.Errorf("%s: %d MB were allocated before the login: %v", name, grown>>20, err)
		}
	}
}
