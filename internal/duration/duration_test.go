// SPDX-License-Identifier: Apache-2.0

package duration_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
)

func TestText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 30 * time.Second: "30s", 1500 * time.Millisecond: "1.5s", 5 * time.Minute: "5m", 90 * time.Second: "1m30s", 100 * time.Minute: "1h40m",
		time.Hour: "1h", time.Hour + 30*time.Second: "1h0m30s", 10 * time.Hour: "10h", 20 * time.Minute: "20m", 24 * time.Hour: "24h", 30 * 24 * time.Hour: "30d",
		49 * time.Hour: "49h", -5 * time.Minute: "-5m",
	} {
		got := duration.Text(d)
		if got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
		if back, err := duration.Parse(got); err != nil || back != d {
			t.Errorf("%q is read as %s: %v", got, back, err)
		}
	}
	for _, text := range []string{"", "d", "5", "1h-d", "never"} {
		if d, err := duration.Parse(text); err == nil {
			t.Errorf("%q is read as %s", text, d)
		}
	}
}

func ExampleText() {
	fmt.Println(duration.Text(5*time.Minute), duration.Text(30*24*time.Hour))
	// Output: 5m 30d
}
