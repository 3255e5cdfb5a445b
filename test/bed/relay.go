// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Relay is a network between a client and a server on this machine: it passes bytes on unchanged, each direction after a
// delay, and limits no throughput.
type Relay struct {
	Port int

	dial     func(context.Context) (net.Conn, error)
	delay    time.Duration
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

const (
	relayChunk  = 16 << 10
	relayChunks = 256 // on their way in one direction of a connection at most: 4 MiB
)

// Relay starts one in front of a loopback port, closed with the bed. A round trip takes twice the delay, and so does
// opening a connection, as over a network.
func (b *Bed) Relay(port int, delay time.Duration) (*Relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting a relay: %w", err)
	}
	r := b.relay(listener, to(port), delay)
	b.say("starting a relay on 127.0.0.1:%d to 127.0.0.1:%d, %s each way", r.Port, port, delay)
	return r, nil
}

// to dials a loopback port.
func to(port int) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	}
}

// relay passes on whatever comes to a listener, wherever that is.
func (b *Bed) relay(listener net.Listener, dial func(context.Context) (net.Conn, error), delay time.Duration) *Relay {
	r := &Relay{Port: listener.Addr().(*net.TCPAddr).Port, dial: dial, delay: delay, listener: listener}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.running.Go(r.serve)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.relays = append(b.relays, r)
	return r
}

// Close ends it and all its connections.
func (r *Relay) Close() error {
	r.cancel()
	err := r.listener.Close()
	r.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (r *Relay) serve() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.running.Go(func() { r.pass(conn.(*net.TCPConn)) })
	}
}

// pass serves one client. The kernel has accepted its connection already, so that its first bytes are held back for the
// round trip that the handshake would have taken.
func (r *Relay) pass(client *net.TCPConn) {
	defer client.Close() //nolint:errcheck // it has ended
	opened := time.Now().Add(2 * r.delay)
	conn, err := r.dial(r.ctx)
	if err != nil {
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close() //nolint:errcheck // it has ended
	defer context.AfterFunc(r.ctx, func() { _, _ = client.Close(), server.Close() })()
	var both sync.WaitGroup
	both.Go(func() { r.carry(server, client, opened) })
	both.Go(func() { r.carry(client, server, opened) })
	both.Wait()
}

// parcel is bytes on their way; none: the sender has no more to say.
type parcel struct {
	at   time.Time // of arrival
	data []byte
}

// carry is one direction: what is sent at a time arrives a delay later, also while more is being sent.
func (r *Relay) carry(to, from *net.TCPConn, opened time.Time) {
	way := make(chan parcel, relayChunks)
	r.running.Go(func() {
		defer close(way)
		for {
			data := make([]byte, relayChunk)
			n, err := from.Read(data)
			sent := time.Now()
			if sent.Before(opened) {
				sent = opened
			}
			select {
			case way <- parcel{sent.Add(r.delay), data[:n]}:
			case <-r.ctx.Done():
				return
			}
			if err != nil {
				if !errors.Is(err, io.EOF) { // it was broken off, which the other side has to see
					_ = to.Close()
				}
				return
			}
		}
	})
	timer := time.NewTimer(0)
	defer timer.Stop()
	failed := false
	for p := range way {
		timer.Reset(time.Until(p.at))
		select {
		case <-timer.C:
		case <-r.ctx.Done():
			continue
		}
		if len(p.data) == 0 || failed {
			continue
		}
		if _, err := to.Write(p.data); err != nil {
			failed = true
			_ = from.Close() // it is of no use to send more
		}
	}
	_ = to.CloseWrite()
}
