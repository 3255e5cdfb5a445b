// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
)

// Retries: exponential, with a cap. What has failed OrphanAfter times in a row is an orphan: nobody can be expected to
// mend it by waiting, so that status says so, and retries are rare.
const (
	MaxBackoff  = 5 * time.Minute
	OrphanAfter = 12 // after some 20 minutes
	OrphanRetry = time.Hour
)

// Backoff returns how long to wait after so many failed attempts.
func Backoff(attempts int) time.Duration {
	if attempts >= OrphanAfter {
		return OrphanRetry
	}
	return backoff.Backoff{First: time.Second, Limit: MaxBackoff}.After(attempts)
}

// Fault is an automatic rotation that could not start.
type Fault struct {
	Attempts int
	Next     time.Time
	Reason   string
}

// Orphan reports whether it was tried so often that waiting will not mend it.
func (f Fault) Orphan() bool { return f.Attempts >= OrphanAfter }
