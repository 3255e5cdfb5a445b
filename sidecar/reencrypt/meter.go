// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// meter shows how far a run is: on a terminal by a bar that is drawn over, elsewhere by a line every few seconds.
type meter struct {
	out      io.Writer // nil: nothing is shown
	terminal bool
	env      string
	totals   map[string]int // rows by column

	mu    sync.Mutex
	what  string // the phase
	begun time.Time
	shown time.Time
	done  map[string]int // rows by column, in this phase
	drawn bool           // there is a bar on the line
}

const (
	plainRate = 5 * time.Second // between two lines
	barWidth  = 24
)

func newMeter(out io.Writer, env string) *meter {
	file, ok := out.(*os.File)
	m := &meter{out: out, env: env, totals: map[string]int{}}
	if ok {
		info, err := file.Stat()
		m.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return m
}

// begin starts a phase.
func (m *meter) begin(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.what, m.begun, m.shown, m.done = what, time.Now(), time.Now(), map[string]int{}
}

// staging takes how far a column is that is being staged.
func (m *meter) staging(c workload.ColumnReport) { m.take(c, c.Staged+c.Rotated+c.Other+c.Bad) }

// passing takes how many rows of a column have been looked at.
func (m *meter) passing(c workload.ColumnReport) { m.take(c, c.Total) }

func (m *meter) take(c workload.ColumnReport, done int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done[c.Column] = done
	if m.out == nil || !m.terminal && time.Since(m.shown) < plainRate {
		return
	}
	m.shown = time.Now()
	if m.terminal {
		_, _ = fmt.Fprintf(m.out, "\r\x1b[K%s", m.text(true))
		m.drawn = true
		return
	}
	_, _ = fmt.Fprintln(m.out, m.text(false))
}

// end leaves the line to others.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.drawn {
		_, _ = fmt.Fprint(m.out, "\r\x1b[K")
		m.drawn = false
	}
}

// text says how many rows of how many are done, how fast that goes, and how long it will take. mu is held.
func (m *meter) text(bar bool) string {
	done, total := 0, 0
	for _, n := range m.done {
		done += n
	}
	for _, n := range m.totals {
		total += n
	}
	total = max(total, done)
	rate := float64(done) / max(time.Since(m.begun).Seconds(), 0.001)
	left := "?"
	if rate > 0 {
		left = time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second).String()
	}
	drawing := ""
	if bar {
		full := barWidth * done / max(total, 1)
		drawing = "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] "
	}
	return fmt.Sprintf("  %s: %s %s%d of %d rows, %.0f/s, %s left", m.env, m.what, drawing, done, total, rate, left)
}
