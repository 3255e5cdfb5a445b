// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"runtime"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	ours "github.com/hyvve/vault-plugin-secrets-hyvve/internal/pbkdf2"
)

// serial is how many derivations the peer of pbkdf2-multi does one after the other, and ours a core: both sides then
// take about as long, so that a disturbance finds both.
const serial = 8

// standard is the peer: the standard library's derivation, whatever becomes of ours.
func standard(secret []byte, salt envelope.Salt) (envelope.Derived, error) {
	derived, err := pbkdf2.Key(sha256.New, string(secret), salt[:], envelope.Iterations, ours.Size)
	if err != nil {
		return envelope.Derived{}, err
	}
	return envelope.Derived(derived), nil
}

func draw() (secret []byte, salt envelope.Salt) {
	secret = make([]byte, ours.Size)
	_, _ = rand.Read(secret) // never fails
	_, _ = rand.Read(salt[:])
	return secret, salt
}

// deriveOne compares a derivation of ours with one of the standard library's.
func deriveOne(context.Context, io.Writer) ([]Result, error) {
	secret, salt := draw()
	took, err := interleave(21,
		func() error { _, err := ours.Key(secret, salt[:], envelope.Iterations); return err },
		func() error { _, err := standard(secret, salt); return err })
	if err != nil {
		return nil, err
	}
	return []Result{times("pbkdf2-single", took[0], took[1])}, nil
}

// deriveMany compares what all cores derive together, a core, with what one derives by the standard library.
func deriveMany(context.Context, io.Writer) ([]Result, error) {
	cores := runtime.GOMAXPROCS(0)
	jobs := make([]ours.Job, serial*cores)
	for i := range jobs {
		secret, salt := draw()
		jobs[i] = ours.Job{Secret: secret, Salt: salt[:]}
	}
	took, err := interleave(9,
		func() error { _, err := ours.Keys(jobs, envelope.Iterations); return err },
		func() error {
			for range serial {
				if _, err := standard(draw()); err != nil {
					return err
				}
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	return []Result{rates("pbkdf2-multi", "derivations/s/core", serial/took[0].Seconds(), serial/took[1].Seconds())}, nil
}
