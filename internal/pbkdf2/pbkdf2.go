// SPDX-License-Identifier: Apache-2.0

// Package pbkdf2 derives the keys of envelopes: PBKDF2-HMAC-SHA256 (RFC 8018, section 5.2) of one block of output. It
// returns what crypto/pbkdf2 returns, and takes less time where the processor has instructions for SHA-256.
//
// An iteration is an HMAC (RFC 2104) of 32 bytes: two compressions that begin with states which depend on the secret
// only. These are computed once, by the portable code of sha256.go (FIPS 180-4). The iterations themselves are assembly,
// which asm/ generates. One compression is a chain of instructions that wait for each other and leave the processor idle
// three quarters of its time; so several derivations, which have nothing to do with each other, are computed in the same
// loop. A derivation of 100 000 iterations costs, on a core of an AMD EPYC 9004 (crypto/pbkdf2: 16 ms):
//
//	derivations at once    1     2     4
//	ms each              7.0   3.8   2.7
//
// No library that we found does so: those for several streams (minio/sha256-simd, with AVX-512) hash messages from their
// start, and those for PBKDF2 derive one key at a time.
//
// The assembly for arm64 is tested under emulation, so that its speed is not known; the chain is that of crypto/sha256
// without what crypto/pbkdf2 does between compressions.
//
// Everywhere else it is crypto/pbkdf2 itself, which keeps the states, too, and whose compression is assembly on most
// machines. Restoring the states of a crypto/sha256 ourselves takes as long; a compression in Go, 278 ns, is beaten by
// that of AVX2, and better by an eighth only where the standard library's is Go as well.
//
// This package is not a validated cryptographic module. Where the process is in FIPS 140 mode, it leaves the derivation
// to crypto/pbkdf2, which is one, and which may refuse the parameters.
package pbkdf2

import (
	"context"
	"crypto/fips140"
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
)

// Size is the length of a derived key in bytes.
const Size = 32

// Job is one derivation of many.
type Job struct {
	Secret, Salt []byte
}

// Key derives one key. The error is that of a machine in FIPS mode which refuses the parameters.
func Key(secret, salt []byte, iterations int) ([Size]byte, error) {
	var result [1][Size]byte
	err := chosen.derive([]Job{{secret, salt}}, iterations, result[:])
	return result[0], err
}

// Keys derives all jobs, on all cores and several at once on each; the results stand in the order of the jobs. When ctx ends,
// it returns the error of ctx. It looks at ctx before each derivation or few, which take milliseconds.
func Keys(ctx context.Context, jobs []Job, iterations int) ([][Size]byte, error) {
	return chosen.spread(ctx, jobs, iterations, runtime.GOMAXPROCS(0))
}

// implementation is one way to derive. Its function derives at most width keys at once, and takes any number of
// iterations that crypto/pbkdf2 takes.
type implementation struct {
	name   string
	width  int
	derive func(jobs []Job, iterations int, results [][Size]byte) error
}

var chosen = choose(implementations(), fips140.Enabled())

// implementations lists those that run on this machine, the fastest first.
func implementations() []implementation {
	return append(accelerated(), standard)
}

func choose(usable []implementation, fips bool) implementation {
	if fips {
		return standard
	}
	return usable[0]
}

// standard is the standard library's.
var standard = implementation{
	name:  "crypto/pbkdf2",
	width: 1,
	derive: func(jobs []Job, iterations int, results [][Size]byte) error {
		for n, j := range jobs {
			derived, err := pbkdf2.Key(sha256.New, string(j.Secret), j.Salt, iterations, Size)
			if err != nil {
				return fmt.Errorf("pbkdf2: %w", err)
			}
			results[n] = [Size]byte(derived)
		}
		return nil
	},
}

// spread derives all jobs with so many workers.
func (i implementation) spread(ctx context.Context, jobs []Job, iterations, workers int) ([][Size]byte, error) {
	ends := split(len(jobs), i.width, workers)
	results := make([][Size]byte, len(jobs))
	errs := make([]error, len(ends))
	var next atomic.Int64
	var working sync.WaitGroup
	for range min(workers, len(ends)) {
		working.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(ends) {
					return
				}
				if errs[n] = ctx.Err(); errs[n] != nil {
					continue
				}
				begin := 0
				if n > 0 {
					begin = ends[n-1]
				}
				errs[n] = i.derive(jobs[begin:ends[n]], iterations, results[begin:ends[n]])
			}
		})
	}
	working.Wait()
	if err := errors.Join(errs...); err != nil {
		clear(results)
		return nil, err
	}
	return results, nil
}

// split cuts n jobs into groups that are done at once, and returns where each ends: full ones as long as every worker gets
// one, and of the rest as much for one worker as for another.
func split(n, width, workers int) (ends []int) {
	for end := 0; end < n; {
		if len(ends)%workers == 0 {
			width = min(width, (n-end+workers-1)/workers)
		}
		end = min(end+width, n)
		ends = append(ends, end)
	}
	return ends
}
