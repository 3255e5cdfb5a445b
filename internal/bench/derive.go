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

// derivations compares ours with the standard library's: one at a time, and many a core.
func derivations(context.Context, io.Writer) ([]Result, error) {
	secret, salt := make([]byte, 32), make([]byte, envelope.SaltSize)
	_, _ = rand.Read(secret)
	_, _ = rand.Read(salt)
	standard := func() error {
		_, err := pbkdf2.Key(sha256.New, string(secret), salt, envelope.Iterations, ours.Size)
		return err
	}
	single, peer, err := interleave(15, func() error {
		_, err := ours.Key(secret, salt, envelope.Iterations)
		return err
	}, standard)
	if err != nil {
		return nil, err
	}
	cores := runtime.GOMAXPROCS(0)
	jobs := make([]ours.Job, 8*cores)
	for i := range jobs {
		jobs[i] = ours.Job{Secret: secret, Salt: salt}
	}
	many, one, err := interleave(7, func() error {
		_, err := ours.Keys(jobs, envelope.Iterations)
		return err
	}, standard)
	if err != nil {
		return nil, err
	}
	perCore := float64(len(jobs)) / many.Seconds() / float64(cores)
	return []Result{
		times("pbkdf2-single", single, peer),
		rates("pbkdf2-multi", "derivations/s/core", perCore, 1/one.Seconds()),
	}, nil
}
