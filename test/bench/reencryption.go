// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	ours "github.com/hyvve/vault-plugin-secrets-hyvve/internal/pbkdf2"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// How many rounds there are, and rows a round on each side: the runbook's way is so slow that a few give its rate.
const (
	reencryptRounds = 3
	runbookRows     = 24
	firstRows       = 1000
	nextRows        = 100_000
	nextSalts       = 25 // as an earlier rotation of so many rows leaves them
)

var allPhases = []workload.Phase{workload.PhaseStage, workload.PhaseFlip, workload.PhaseSweep, workload.PhaseWipe}

// reencryptionRates are in rows/s, one a round.
type reencryptionRates struct{ runbook, runbookRerun, first, next, rerun []float64 }

// reencryption compares a first rotation (a salt a row), a next one (shared salts) and a re-run with the runbook's way.
func reencryption(ctx context.Context, p *place) ([]Result, error) {
	next, err := newDatabase(ctx, p.postgres, "next", nextRows, nextSalts)
	if err != nil {
		return nil, err
	}
	var all reencryptionRates
	for round := range reencryptRounds {
		_, _ = fmt.Fprintf(p.log, "  round %d of %d\n", round+1, reencryptRounds)
		theirs, err := newDatabase(ctx, p.postgres, fmt.Sprintf("runbook%d", round), runbookRows, 0)
		if err != nil {
			return nil, err
		}
		first, err := newDatabase(ctx, p.postgres, fmt.Sprintf("first%d", round), firstRows, 0)
		if err != nil {
			return nil, err
		}
		if err := all.round(ctx, theirs, first, next); err != nil {
			return nil, err
		}
	}
	return []Result{
		rates("reencrypt-first", "rows/s", median(all.first), median(all.runbook)).against(18),
		rates("reencrypt-next", "rows/s", median(all.next), median(all.runbook)).against(500),
		rates("reencrypt-rerun", "rows/s", median(all.rerun), median(all.runbookRerun)).against(100),
	}, nil
}

// round measures each side once, in turn.
func (r *reencryptionRates) round(ctx context.Context, theirs, first, next *database) error {
	to := masterKey()
	if err := theirs.byRunbook(ctx, &r.runbook, to, runbookRows); err != nil {
		return fmt.Errorf("runbook: %w", err)
	}
	if err := first.timed(ctx, &r.first, first.current, to, allPhases...); err != nil {
		return fmt.Errorf("first: %w", err)
	}
	before := next.current
	if err := next.timed(ctx, &r.next, before, to, allPhases...); err != nil {
		return fmt.Errorf("next: %w", err)
	}
	if err := theirs.byRunbook(ctx, &r.runbookRerun, to, 0); err != nil {
		return fmt.Errorf("runbook's re-run: %w", err)
	}
	if err := next.timed(ctx, &r.rerun, before, to, workload.PhaseStage, workload.PhaseFlip); err != nil {
		return fmt.Errorf("re-run: %w", err)
	}
	return nil
}

// timed adds the rate of a rotation.
func (d *database) timed(ctx context.Context, into *[]float64, from, to key.Value, phases ...workload.Phase) error {
	took, err := d.rotate(ctx, from, to, phases...)
	*into = append(*into, float64(len(d.rows))/took.Seconds())
	return err
}

// byRunbook adds the rate of the runbook's way, which must change so many rows. The current key stays noted as it is,
// so that the same call again is a re-run.
func (d *database) byRunbook(ctx context.Context, into *[]float64, to key.Value, changes int) error {
	oldSecret, err := envelope.Secret(key.TagFirst, d.current)
	if err != nil {
		return err
	}
	newSecret, err := envelope.Secret(key.TagFirst, to)
	if err != nil {
		return err
	}
	begun := time.Now()
	changed, err := runbook(ctx, d.conn, d.rows, oldSecret, newSecret)
	if err == nil && changed != changes {
		err = fmt.Errorf("%d rows changed instead of %d", changed, changes)
	}
	*into = append(*into, float64(len(d.rows))/time.Since(begun).Seconds())
	return err
}

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

// runbook re-encrypts rows as the platform's own runbook does, and is what ours is compared with: one row after the
// other, two derivations by crypto/pbkdf2 for each, an update by id. It returns how many rows it changed.
func runbook(ctx context.Context, conn *pgx.Conn, rows []bed.Row, oldSecret, newSecret []byte) (changed int, err error) {
	for _, row := range rows {
		var text string
		if err := conn.QueryRow(ctx, "SELECT api_key_encrypted FROM ai_provider_configs WHERE id = $1", row.ID).Scan(&text); err != nil {
			return changed, err
		}
		sealed, err := reseal(text, oldSecret, newSecret)
		if err != nil {
			return changed, fmt.Errorf("row %s: %w", row.ID, err)
		}
		if sealed == text {
			continue
		}
		if _, err := conn.Exec(ctx, "UPDATE ai_provider_configs SET api_key_encrypted = $1 WHERE id = $2", sealed, row.ID); err != nil {
			return changed, err
		}
		changed++
	}
	return changed, nil
}

// reseal opens an envelope under the old key and seals it under the new one with a salt of its own: a derivation each.
// One that is under the new key already is given back as it is; that costs two derivations as well, to try both keys
// (docs/platform.md, trap 6).
func reseal(text string, oldSecret, newSecret []byte) (string, error) {
	e, err := envelope.Parse(text)
	if err != nil {
		return "", err
	}
	plaintext, err := openStandard(e, oldSecret)
	if err != nil {
		_, err = openStandard(e, newSecret)
		return text, err
	}
	salt, err := envelope.NewSalt(rand.Reader)
	if err != nil {
		return "", err
	}
	derived, err := standard(newSecret, salt)
	if err != nil {
		return "", err
	}
	sealed, err := envelope.Seal(key.TagFirst, derived, salt, plaintext, rand.Reader)
	return sealed.String(), err
}

func openStandard(e envelope.Envelope, secret []byte) ([]byte, error) {
	derived, err := standard(secret, e.Salt)
	if err != nil {
		return nil, err
	}
	return e.Open(key.TagFirst, derived)
}
