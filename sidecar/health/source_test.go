// SPDX-License-Identifier: Apache-2.0

package health

import (
	"net"
	"strings"
	"testing"
	"time"
)

// A workload that resets connections is unhealthy for the same reason each time, from whatever port it was asked.
func TestSameReasonFromEveryPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // a test's
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1))
			if c, ok := conn.(*net.TCPConn); ok {
				_ = c.SetLinger(0)
			}
			_ = conn.Close()
		}
	}()
	url := "http://" + l.Addr().String() + "/"
	for name, c := range map[string]Checker{
		"http":       HTTP{URL: url, Timeout: time.Minute},
		"prometheus": &Prometheus{Metrics: Metrics{URL: url, Metric: "failures_total", Timeout: time.Minute}, Window: time.Minute},
	} {
		reasons := map[string]bool{}
		for range 5 {
			if err := c.Check(t.Context(), ""); err != nil {
				reasons[err.Error()] = true
				if strings.Contains(err.Error(), "->") {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		if len(reasons) != 1 && name == "http" {
			t.Errorf("%s: %d reasons", name, len(reasons))
		}
	}
}
