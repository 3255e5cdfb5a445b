// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	ours "github.com/hyvve/vault-plugin-secrets-hyvve/internal/pbkdf2"
)

// perCore is how many derivations each core does in a round of pbkdf2-multi.
const perCore = 8

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
	return []Result{times("pbkdf2-single", took[0], took[1]).against(2.3)}, nil
}

// deriveMany compares what all cores derive together: what a core does less because the others work, and what else runs
// on the machine, is then in both.
func deriveMany(ctx context.Context, _ io.Writer) ([]Result, error) {
	cores := runtime.GOMAXPROCS(0)
	jobs := make([]ours.Job, perCore*cores)
	for i := range jobs {
		secret, salt := draw()
		jobs[i] = ours.Job{Secret: secret, Salt: salt[:]}
	}
	took, err := interleave(21,
		func() error { _, err := ours.Keys(ctx, jobs, envelope.Iterations); return err },
		func() error {
			var group errgroup.Group
			group.SetLimit(cores)
			for _, j := range jobs {
				group.Go(func() error { _, err := standard(j.Secret, envelope.Salt(j.Salt)); return err })
			}
			return group.Wait()
		})
	if err != nil {
		return nil, err
	}
	rate := func(t time.Duration) float64 { return perCore / t.Seconds() }
	return []Result{rates("pbkdf2-multi", "derivations/s/core", rate(took[0]), rate(took[1])).against(4.5)}, nil
}
