// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"io"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// measuring is what a benchmark does.
type measuring = func(ctx context.Context, log io.Writer) ([]Result, error)

// place is where something is measured: servers of its own.
type place struct {
	*bed.Bed
	log      io.Writer
	vault    *bed.Vault
	postgres *bed.Postgres
}

// in lets something be measured in a place that was made ready, in turn, and removes that afterwards.
func in(measure func(ctx context.Context, p *place) ([]Result, error), ready ...func(ctx context.Context, p *place) error) measuring {
	return func(ctx context.Context, log io.Writer) (results []Result, err error) {
		b, err := bed.New("bench", log)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, b.Close()) }()
		p := &place{Bed: b, log: log}
		for _, one := range ready {
			if err := one(ctx, p); err != nil {
				return nil, err
			}
		}
		return measure(ctx, p)
	}
}

func withVault(ctx context.Context, p *place) (err error) {
	p.vault, err = p.Vault(ctx, bed.VaultOptions{})
	return err
}

func withPostgres(ctx context.Context, p *place) (err error) {
	p.postgres, err = p.Postgres(ctx)
	return err
}
