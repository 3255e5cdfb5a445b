// SPDX-License-Identifier: Apache-2.0

package usage

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"testing"
	"time"
)

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log := Logger(&out, slog.LevelInfo)
	log.Debug("not said")
	log.With("after", time.Minute).WithGroup("session").Info("ended", "retry_in", 1500*time.Millisecond, "tries", 3)
	var line struct {
		Level, Msg, After string
		Session           struct {
			RetryIn string `json:"retry_in"`
			Tries   int
		}
	}
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if line.Level != "INFO" || line.Msg != "ended" || line.After != "1m0s" || line.Session.RetryIn != "1.5s" || line.Session.Tries != 3 {
		t.Errorf("%s", out.String())
	}
}
