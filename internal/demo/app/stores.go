// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Names of the URLs in the bundle.
const (
	databaseURL = "DATABASE_URL"
	redisURL    = "REDIS_URL"
)

// openPatience is how long a server may take to answer the first time.
const openPatience = 5 * time.Second

// sessionsKept is how many sessions a process has open at each server all the time, as the platform's pools do.
const sessionsKept = 3

// store is a pool of long-lived sessions, for as long as its URL is in the bundle. Whoever is at work with it ends before
// it is closed.
type store[T any] struct {
	url    string
	client T
	end    func()

	mu     sync.RWMutex
	closed bool
}

// use does something with the pool, or tells that it is closed.
func (s *store[T]) use(do func(T) error) (used bool, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return false, nil
	}
	return true, do(s.client)
}

func (s *store[T]) close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.end()
}

// follow gives the pool of a URL: the present one, or another that is open and answers.
func follow[T any](present *store[T], address string, open func(address string) (T, func(), error)) (*store[T], error) {
	if present != nil && present.url == address {
		return present, nil
	}
	client, end, err := open(address)
	if err != nil {
		return nil, err
	}
	return &store[T]{url: address, client: client, end: end}, nil
}

// openDatabase opens a pool as Prisma does: with parameters of its own in the URL, which the server would refuse.
func (p *process) openDatabase(address string) (*pgxpool.Pool, func(), error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, nil, errors.New("DATABASE_URL is no URL")
	}
	query := u.Query()
	query.Del("schema")
	query.Del("connection_limit")
	u.RawQuery = query.Encode()
	config, err := pgxpool.ParseConfig(u.String())
	if err != nil {
		return nil, nil, errors.New("DATABASE_URL is no URL of a PostgreSQL server")
	}
	config.MinConns, config.MaxConns = sessionsKept, sessionsKept+1
	config.ConnConfig.RuntimeParams["application_name"] = p.instance
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), openPatience)
	defer cancel()
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, nil, err
	}
	return pool, pool.Close, nil
}

// openCache opens a pool as ioredis has its session: it lives long, and is opened anew when it breaks. No command is tried
// twice, so that nothing goes unseen.
func (p *process) openCache(address string) (*goredis.Client, func(), error) {
	options, err := goredis.ParseURL(address)
	if err != nil {
		return nil, nil, errors.New("REDIS_URL is no URL of a Redis server")
	}
	options.ClientName, options.DisableIdentity = p.instance, true
	options.MinIdleConns, options.PoolSize, options.MaxRetries = sessionsKept, sessionsKept+1, -1
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	client := goredis.NewClient(options)
	end := func() { _ = client.Close() }
	ctx, cancel := context.WithTimeout(context.Background(), openPatience)
	defer cancel()
	if err := client.Ping(ctx).Err(); err != nil {
		end()
		return nil, nil, err
	}
	return client, end, nil
}

// database does something with the pool of now.
func (p *process) database(do func(*pgxpool.Pool) error) error {
	for {
		if used, err := p.now.Load().db.use(do); used {
			return err
		}
	}
}

// cache does something with the pool of now.
func (p *process) cache(do func(*goredis.Client) error) error {
	for {
		if used, err := p.now.Load().cache.use(do); used {
			return err
		}
	}
}
