// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// echo answers each client with what it sends.
func echo(t *testing.T) int {
	t.Helper()
	_, port, err := net.SplitHostPort(kit.Serve(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn) }))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRelay(t *testing.T) {
	const delay = 20 * time.Millisecond
	b, err := New("relay", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close() //nolint:errcheck // closed below
	r, err := b.Relay(echo(t), delay)
	if err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		conn, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: r.Port})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn := dial()
	for n, least := range []time.Duration{4 * delay, 2 * delay} { // the first trip bears the handshake, too
		begun, buffer := time.Now(), make([]byte, 4)
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, buffer); err != nil || string(buffer) != "ping" {
			t.Fatalf("%q, %v", buffer, err)
		}
		// The relay may have taken the connection up a moment before the dialler heard of it.
		if took := time.Since(begun) + time.Millisecond; took < least {
			t.Errorf("round trip %d took %s, want at least %s", n+1, took, least)
		}
	}

	// Much more than is on its way at a time passes intact, and in far less than a delay for each piece.
	sent, begun := make([]byte, 3*relayChunk*relayChunks), time.Now()
	_, _ = rand.Read(sent)
	big := dial().(*net.TCPConn)
	go func() {
		_, _ = big.Write(sent)
		_ = big.CloseWrite()
	}()
	got, err := io.ReadAll(big)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, or others: %v", len(got), len(sent), err)
	}
	if took, most := time.Since(begun), delay*time.Duration(len(sent)/relayChunk); took > most {
		t.Errorf("%d bytes took %s: each piece waits for the one before", len(sent), took)
	}

	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the relay")
	}
	if _, err := r.listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the relay listens after the bed was closed: %v", err)
	}
}
