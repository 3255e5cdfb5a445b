// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// network is a network namespace.
type network struct{ file *os.File }

// within does something on a thread that is in the network; sockets that it makes stay there. The thread is given up
// afterwards where it does not find its way back.
func (n network) within(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer home.Close() //nolint:errcheck // read only
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the cluster's network: %w", err)
			return
		}
		err = do()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// dial connects to an address of the network.
func (n network) dial(ctx context.Context, address string) (conn net.Conn, err error) {
	err = n.within(func() error {
		conn, err = (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp4", address)
		return err
	})
	return conn, err
}

// listen listens at an address of the network.
func (n network) listen(ctx context.Context, address string) (l net.Listener, err error) {
	err = n.within(func() error {
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp4", address)
		return err
	})
	return l, err
}
