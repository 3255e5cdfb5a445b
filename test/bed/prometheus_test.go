// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"fmt"
	"testing"
	"time"
)

func TestPrometheus(t *testing.T) {
	b := ForTest(t)
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	self := "global:\n  scrape_interval: 100ms\n  scrape_timeout: 100ms\nscrape_configs:\n  - job_name: self\n    static_configs:\n      - targets: [\"127.0.0.1:%d\"]\n"
	p, err := b.PrometheusAt(t.Context(), port, fmt.Sprintf(self, port))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 { // the second time after a restart, with what it has stored
		deadline := time.After(WaitTimeout)
		for {
			up, err := p.Query(t.Context(), `max_over_time(up{job="self"}[1m])`)
			if err != nil {
				t.Fatal(err)
			}
			if len(up) == 1 && up[0] == 1 {
				break
			}
			select {
			case <-deadline:
				t.Fatalf("it has not scraped itself: %v", up)
			case <-time.After(20 * time.Millisecond):
			}
		}
		if _, err := p.Query(t.Context(), "up{"); err == nil {
			t.Error("an expression that is none is evaluated")
		}
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			if err := p.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := b.Prometheus(t.Context(), "not: [yaml"); err == nil {
		t.Error("a configuration that is none is taken")
	}
}
