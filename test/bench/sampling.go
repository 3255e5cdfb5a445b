// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/postgres"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/redis"
)

const (
	// sampledFor is how long each form of sampling is measured, at least.
	sampledFor = 10 * time.Second
	// bystanders are the sessions of others at each server.
	bystanders = 20
	// Bars, in % of a core of the server: while a rotation soaks, and in the dense samples at its end.
	barSparse = 1
	barDense  = 3
)

// sampledServer is a server whose sessions a kind samples.
type sampledServer struct {
	name   string
	kind   kind.Server
	change kind.Change
	cpu    func() (seconds float64, err error) // that the server has spent on what the kind asks
}

// sampling measures what samples for use of an old version cost PostgreSQL and Redis.
func sampling(ctx context.Context, p *place) ([]Result, error) {
	pg, closePostgres, err := sampledPostgres(ctx, p)
	if err != nil {
		return nil, err
	}
	defer closePostgres()
	rd, closeRedis, err := sampledRedis(ctx, p)
	if err != nil {
		return nil, err
	}
	defer closeRedis()
	var results []Result
	for _, s := range []sampledServer{pg, rd} {
		sparse, err := s.share(ctx, func() error {
			_, _, err := s.kind.InUse(ctx, s.change)
			return errors.Join(err, pause(ctx, time.Second))
		})
		if err != nil {
			return nil, err
		}
		dense, err := s.share(ctx, func() error {
			sampler, _ := s.kind.(kind.Sampler)
			_, _, err := sampler.Sample(ctx, s.change, time.Second)
			return err
		})
		if err != nil {
			return nil, err
		}
		results = append(results,
			Result{Name: s.name + "-sampling-soak", Unit: "% of a core", Ours: sparse}.within(barSparse),
			Result{Name: s.name + "-sampling-dense", Unit: "% of a core", Ours: dense}.within(barDense))
	}
	return results, nil
}

// share does something again and again, and returns what that costs the server, in % of a core.
func (s sampledServer) share(ctx context.Context, do func() error) (float64, error) {
	if err := do(); err != nil { // sessions are open from here on
		return 0, err
	}
	before, err := s.cpu()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	for time.Since(begun) < sampledFor && ctx.Err() == nil {
		if err := do(); err != nil {
			return 0, err
		}
	}
	took := time.Since(begun)
	after, err := s.cpu()
	return 100 * (after - before) / took.Seconds(), err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func sampledPostgres(ctx context.Context, p *place) (s sampledServer, end func(), err error) {
	k := postgres.New(rand.Reader)
	var conns []*pgx.Conn
	end = func() {
		for _, conn := range conns {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
		_ = k.Close()
	}
	admin := p.postgres.AdminURL("postgres")
	for range bystanders {
		conn, err := pgx.Connect(ctx, admin)
		if err != nil {
			return s, end, err
		}
		conns = append(conns, conn)
	}
	u, err := dsn.Parse(admin, "postgresql")
	if err != nil {
		return s, end, err
	}
	s = sampledServer{name: "postgres", kind: k, cpu: func() (spent float64, err error) {
		rows, err := conns[0].Query(ctx, "SELECT pid FROM pg_stat_activity WHERE application_name = 'hyvve-engine'")
		if err != nil {
			return 0, err
		}
		pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
		for _, pid := range pids {
			one, err := processorTime(pid)
			if err != nil {
				return 0, err
			}
			spent += one
		}
		return spent, err
	}}
	s.change, err = betweenTwo(k, "url", admin, u)
	return s, end, err
}

func sampledRedis(ctx context.Context, p *place) (s sampledServer, end func(), err error) {
	k := redis.New()
	end = func() { _ = k.Close() }
	r, err := p.Redis(ctx)
	if err != nil {
		return s, end, err
	}
	u, err := dsn.Parse(r.AdminURL(), "redis")
	if err != nil {
		return s, end, err
	}
	s = sampledServer{name: "redis", kind: k, cpu: func() (float64, error) {
		info, err := r.Do(ctx, "INFO", "cpu")
		if err != nil {
			return 0, err
		}
		sum := 0.0
		for line := range strings.Lines(info) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			if seconds, err := strconv.ParseFloat(value, 64); err == nil && (name == "used_cpu_user" || name == "used_cpu_sys") {
				sum += seconds
			}
		}
		return sum, nil
	}}
	s.change, err = betweenTwo(k, "url", r.AdminURL(), u)
	return s, end, err
}

// betweenTwo is a change from one login that nobody uses to another.
func betweenTwo(k kind.Connector, field, admin string, u dsn.URL) (kind.Change, error) {
	c, err := k.NormalizeConnection(kind.Connection{Name: "bench", Revision: 1, Options: kind.Options{field: admin}})
	if err != nil {
		return kind.Change{}, err
	}
	version := func(number int) key.Version {
		return key.Version{Number: number, Value: u.With(fmt.Sprintf("nobody_%d", number), key.NewValue("nobody")).Text()}
	}
	generic, _ := k.(kind.Kind)
	options, err := generic.Normalize(kind.Options{kind.OptionConnection: "bench"})
	return kind.Change{Key: key.Key{Name: "bench", Env: "BENCH", Mount: "bench2", Options: options}, From: version(1), To: version(2), Connection: c}, err
}
