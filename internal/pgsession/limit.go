// SPDX-License-Identifier: Apache-2.0

package pgsession

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
)

// What a server may send before it has let us in: until then anybody may be at the other end.
const (
	strangerMessage = 64 << 10
	strangerTotal   = 1 << 20
)

var errStranger = errors.New("it sent too much before it let us in; is it a PostgreSQL server?")

// Limit limits what a server can make us hold: before the login little, and after it messages of maxMessage bytes.
func Limit(config *pgconn.Config, maxMessage int) {
	dial, then := config.DialFunc, config.AfterConnect
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		s := &stranger{Conn: conn}
		s.left.Store(strangerTotal)
		return s, nil
	}
	config.MaxProtocolMessageBodyLen = strangerMessage
	config.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		of := conn.Conn()
		if secured, ok := of.(*tls.Conn); ok {
			of = secured.NetConn()
		}
		if s, ok := of.(*stranger); ok {
			s.known.Store(true)
		}
		conn.Frontend().SetMaxBodyLen(maxMessage)
		if then == nil {
			return nil
		}
		return then(ctx, conn)
	}
}

// stranger is a connection to somebody who has not let us in yet.
type stranger struct {
	net.Conn
	left  atomic.Int64
	known atomic.Bool
}

func (s *stranger) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if !s.known.Load() && s.left.Add(int64(-n)) < 0 {
		return 0, errStranger
	}
	return n, err
}
