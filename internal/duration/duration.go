// SPDX-License-Identifier: Apache-2.0

// Package duration has the one form in which people read durations: 30s, 5m, 1h30m, 30d.
package duration

import (
	"fmt"
	"strings"
	"time"
)

const day = 24 * time.Hour

// Text returns a duration without units that are zero, and in days from two whole days on. It is a form that requests take.
func Text(d time.Duration) string {
	if d >= 2*day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Parse reads what Text writes, and what [time.ParseDuration] reads.
func Parse(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		hours, err := time.ParseDuration(days + "h")
		return 24 * hours, err
	}
	return time.ParseDuration(text)
}
