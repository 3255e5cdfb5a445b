// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Names of the URLs in the bundle.
const (
	databaseURL = "DATABASE_URL"
	redisURL    = "REDIS_URL"
)

const (
	openPatience = 5 * time.Second // that a server may take to answer the first time
	sessionsKept = 3               // open at each server all the time, as the platform's pools have them
)

// Pools are the sessions of a process at PostgreSQL and Redis. They live long, are opened again when they break, as those of
// Prisma and ioredis are, and are replaced when a URL changes.
type Pools struct {
	Instance string // how the process calls itself at servers

	mu    sync.Mutex // guards the pools while they are replaced or read
	db    *store[*pgxpool.Pool]
	cache *store[*goredis.Client]
}

// Follow makes the pools lead to the URLs; an empty one is not used. Pools of a new URL have answered before they take the
// place of the old, which are closed when nobody is at work with them any more. On an error all is as it was.
func (p *Pools) Follow(databaseURL, redisURL string) error {
	p.mu.Lock()
	oldDB, oldCache := p.db, p.cache
	p.mu.Unlock()
	cache, err := follow(oldCache, redisURL, p.openCache)
	if err != nil {
		return err
	}
	db, err := follow(oldDB, databaseURL, p.openDatabase)
	if err != nil {
		if cache != oldCache {
			cache.close()
		}
		return err
	}
	p.mu.Lock()
	p.db, p.cache = db, cache
	p.mu.Unlock()
	if cache != oldCache {
		go oldCache.close()
	}
	if db != oldDB {
		go oldDB.close()
	}
	return nil
}

// Close ends all sessions.
func (p *Pools) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.db.close()
	p.cache.close()
}

// Database does something with the pool of now.
func (p *Pools) Database(do func(*pgxpool.Pool) error) error {
	return use(&p.mu, &p.db, do)
}

// Cache does something with the pool of now.
func (p *Pools) Cache(do func(*goredis.Client) error) error {
	return use(&p.mu, &p.cache, do)
}

func use[T any](mu *sync.Mutex, at **store[T], do func(T) error) error {
	for {
		mu.Lock()
		s := *at
		mu.Unlock()
		if used, err := s.use(do); used {
			return err
		}
	}
}

// store is a pool of sessions, for as long as its URL is the one of now.
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

// close waits until nobody is at work with the pool.
func (s *store[T]) close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.end()
	}
}

// follow returns the pool of a URL: the present one, or another that is open and answers.
func follow[T any](present *store[T], address string, open func(address string) (T, func(), error)) (*store[T], error) {
	if address == "" || present != nil && present.url == address {
		return present, nil
	}
	client, end, err := open(address)
	if err != nil {
		return nil, err
	}
	return &store[T]{url: address, client: client, end: end}, nil
}

// openDatabase opens a pool as Prisma does: with parameters of its own in the URL, which the server would refuse.
func (p *Pools) openDatabase(address string) (*pgxpool.Pool, func(), error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, nil, errors.New("DATABASE_URL is no URL")
	}
	query := u.Query()
	pooled := query.Get("pgbouncer") == "true"
	for _, name := range []string{"pgbouncer", "schema", "connection_limit"} {
		query.Del(name)
	}
	u.RawQuery = query.Encode()
	config, err := pgxpool.ParseConfig(u.String())
	if err != nil {
		return nil, nil, errors.New("DATABASE_URL is no URL of a PostgreSQL server")
	}
	if pooled { // nothing is prepared, then
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	}
	config.MinConns, config.MaxConns = sessionsKept, sessionsKept+1
	config.ConnConfig.RuntimeParams["application_name"] = p.Instance
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

// openCache opens a pool as ioredis has its session: it lives long, and is opened again when it breaks. No command is tried
// twice, so that nothing goes unseen.
func (p *Pools) openCache(address string) (*goredis.Client, func(), error) {
	options, err := goredis.ParseURL(address)
	if err != nil {
		return nil, nil, errors.New("REDIS_URL is no URL of a Redis server")
	}
	options.ClientName, options.DisableIdentity = p.Instance, true
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
