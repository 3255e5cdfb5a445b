// SPDX-License-Identifier: Apache-2.0

package usage

import (
	"io"
	"log/slog"
)

// Logger writes lines of JSON, in which durations have their units, as "1.5s", and are not numbers of nanoseconds.
func Logger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}}))
}
