// SPDX-License-Identifier: Apache-2.0

// Package pbkdf2 derives the keys of envelopes: PBKDF2-HMAC-SHA256 (RFC 8018, section 5.2). It rests on the standard
// library's implementation and spreads independent derivations over the cores.
package pbkdf2

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
)

// Size is the length of a derived key in bytes.
const Size = 32

// Key derives one key. The error is that of a machine in FIPS mode which refuses the parameters.
func Key(secret, salt []byte, iterations int) ([Size]byte, error) {
	derived, err := pbkdf2.Key(sha256.New, string(secret), salt, iterations, Size)
	if err != nil {
		return [Size]byte{}, fmt.Errorf("pbkdf2: %w", err)
	}
	return [Size]byte(derived), nil
}

// Job is one derivation of many.
type Job struct {
	Secret, Salt []byte
}

// Keys derives all jobs on all cores; the results stand in the order of the jobs.
func Keys(jobs []Job, iterations int) ([][Size]byte, error) {
	results := make([][Size]byte, len(jobs))
	errs := make([]error, len(jobs))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(jobs)) {
		workers.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(jobs) {
					return
				}
				results[n], errs[n] = Key(jobs[n].Secret, jobs[n].Salt, iterations)
			}
		})
	}
	workers.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return results, nil
}
