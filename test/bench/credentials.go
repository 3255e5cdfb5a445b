// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/postgres"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const (
	credentialKeys = 200
	// inTurnEach: of the keys, one in so many is rotated in turn, and stands for all. Each takes as long as any other, and all
	// of them would take minutes over a slow network, in which the machine does nothing but wait.
	inTurnEach       = 10
	credentialTurns  = 21
	maxTogether      = 3 * time.Minute // for all of them at the same time
	credentialRounds = 3
	barParallel      = 10.0
	barOverhead      = 150 // ms
)

// trips are the round trips over which servers are also measured: databases in other zones and regions.
var trips = []time.Duration{10 * time.Millisecond, 20 * time.Millisecond}

// way leads to a server, and the connection, the workload and the keys there that are named after it.
type way struct {
	name  string
	admin string // URL
}

func (d way) key(n int) string { return fmt.Sprintf("%s-%03d", d.name, n) }

// credentials measures rotations of PostgreSQL keys: many at a time against one after the other, and what of one rotation is
// not the server's.
func credentials(ctx context.Context, p *place) ([]Result, error) {
	vault, err := crowded(p.vault, 2*credentialKeys)
	if err != nil {
		return nil, err
	}
	if _, err := p.postgres.NewRole(ctx, "owner"); err != nil {
		return nil, err
	}
	ways := []way{{"near", p.postgres.AdminURL("postgres")}}
	for _, trip := range trips {
		far, err := farOf(p.Bed, p.postgres, trip)
		if err != nil {
			return nil, err
		}
		ways = append(ways, far)
	}
	var sides []func() error
	for _, d := range ways {
		if err := makeCredentials(ctx, vault, d); err != nil {
			return nil, err
		}
		sides = append(sides, func() error { return together(ctx, vault, d) }, func() error { return inTurn(ctx, vault, d) })
	}
	overhead, err := overhead(ctx, vault, ways[0])
	if err != nil {
		return nil, err
	}
	took, err := interleave(credentialRounds, sides...)
	if err != nil {
		return nil, err
	}
	results := []Result{times("postgres-parallel", took[0], inTurnEach*took[1]).against(barParallel)}
	for n, trip := range trips {
		at := 2 * (n + 1)
		results = append(results, times("postgres-parallel-"+trip.String(), took[at], inTurnEach*took[at+1]).against(barParallel))
	}
	return append(results, overhead), nil
}

// farOf is the way to a server over a network of that round trip.
func farOf(b *bed.Bed, p *bed.Postgres, trip time.Duration) (way, error) {
	relay, err := b.Relay(p.Port, trip/2)
	if err != nil {
		return way{}, err
	}
	u, err := url.Parse(p.AdminURL("postgres"))
	if err != nil {
		return way{}, err
	}
	u.Host = fmt.Sprintf("127.0.0.1:%d", relay.Port)
	return way{"far-" + trip.String(), u.String()}, nil
}

func makeCredentials(ctx context.Context, vault *api.Client, d way) error {
	write := func(path string, data map[string]any) error {
		_, err := vault.Logical().WriteWithContext(ctx, path, data)
		return err
	}
	if err := write("hyvve/config", map[string]any{"soak": "0s", "observe": "0s"}); err != nil {
		return err
	}
	if err := write("hyvve/connections/"+d.name, map[string]any{"kind": "postgres", "url": d.admin}); err != nil {
		return err
	}
	u, err := dsn.Parse(d.admin, "postgresql")
	if err != nil {
		return err
	}
	group, _ := errgroup.WithContext(ctx)
	group.SetLimit(makers)
	for n := range credentialKeys {
		group.Go(func() error {
			return write("hyvve/keys/"+d.key(n), map[string]any{
				"kind": "postgres", "connection": d.name, "url": u.Without().Text().Reveal(), "owner": "owner", "generate": true,
			})
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var names []string
	for n := range credentialKeys {
		names = append(names, d.key(n))
	}
	return write("hyvve/workloads/"+d.name, map[string]any{"presents": strings.Join(names, ","), "min_instances": 0})
}

// together rotates all keys at the same time. The engine lets few requests wait for the end of a rotation: all are started,
// and then one after the other is looked at until it has ended.
func together(ctx context.Context, vault *api.Client, d way) error {
	ids := make([]string, credentialKeys)
	group, starting := errgroup.WithContext(ctx)
	for n := range ids {
		group.Go(func() error {
			secret, err := vault.Logical().WriteWithContext(starting, "hyvve/rotate", map[string]any{"key": d.key(n)})
			if err == nil {
				ids[n], _ = secret.Data["id"].(string)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, maxTogether)
	defer cancel()
	for n, id := range ids {
		if err := awaitDone(ctx, vault, id); err != nil {
			return fmt.Errorf("rotation of %s beside all others: %w", d.key(n), err)
		}
	}
	return nil
}

// awaitDone waits until a rotation has ended.
func awaitDone(ctx context.Context, vault *api.Client, id string) error {
	for {
		secret, err := vault.Logical().ReadWithDataWithContext(ctx, "hyvve/rotations/"+id, url.Values{"detailed": {"true"}})
		if err != nil {
			return err
		}
		if secret == nil {
			return fmt.Errorf("there is no rotation %q", id)
		}
		switch state := secret.Data["state"]; state {
		case "done":
			return nil
		case "reverting", "reverted":
			return fmt.Errorf("it is %v: %v", state, secret.Data["next_gate"])
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("it is %v: %v: %w", secret.Data["state"], secret.Data["next_gate"], err)
		}
	}
}

// inTurn rotates keys one after the other, one in inTurnEach of all.
func inTurn(ctx context.Context, vault *api.Client, d way) error {
	for n := 0; n < credentialKeys; n += inTurnEach {
		if err := rotateOne(ctx, vault, d.key(n)); err != nil {
			return err
		}
	}
	return nil
}

// rotateOne rotates a key, and comes back when that has ended.
func rotateOne(ctx context.Context, vault *api.Client, name string) error {
	secret, err := vault.Logical().WriteWithContext(ctx, "hyvve/rotate", map[string]any{"key": name, "wait": "60s"})
	if err != nil {
		return err
	}
	if secret.Data["state"] != "done" {
		return fmt.Errorf("rotation of %s is %v after a minute: %v", name, secret.Data["state"], secret.Data["next_gate"])
	}
	return nil
}

// overhead is how much longer a rotation takes than the same calls at the server, made without an engine, in turn.
func overhead(ctx context.Context, vault *api.Client, d way) (Result, error) {
	k := postgres.New(rand.Reader)
	defer k.Close() //nolint:errcheck // sessions only
	connection, err := k.NormalizeConnection(kind.Connection{Name: "bench", Options: kind.Options{"url": d.admin}})
	if err != nil {
		return Result{}, err
	}
	u, err := dsn.Parse(d.admin, "postgresql")
	if err != nil {
		return Result{}, err
	}
	options, err := k.Normalize(kind.Options{"connection": "bench", "url": u.Without().Text().Reveal(), "owner": "owner"})
	if err != nil {
		return Result{}, err
	}
	c := kind.Change{Key: key.Key{Name: "bare", Env: "BARE", Options: options}, Connection: connection}
	bare := func() error {
		c.From = c.To
		value, err := k.Generate(rand.Reader, c.Key, c.From.Value)
		if err != nil {
			return err
		}
		c.To = key.Version{Number: c.From.Number + 1, Value: value}
		if err := errors.Join(k.Stage(ctx, c), k.Verify(ctx, c)); err != nil {
			return err
		}
		_, _, err = k.InUse(ctx, c)
		return errors.Join(err, k.Retire(ctx, c))
	}
	if err := errors.Join(bare(), rotateOne(ctx, vault, d.key(0))); err != nil { // sessions are open from here on
		return Result{}, err
	}
	took, err := interleave(credentialTurns, func() error { return rotateOne(ctx, vault, d.key(0)) }, bare)
	if err != nil {
		return Result{}, err
	}
	return alone("postgres-overhead", took[0]-took[1]).within(barOverhead), nil
}

const (
	clients      = 8
	roundTime    = time.Second
	engineRounds = 5
	benchKey     = "bench-token"
	benchEnv     = "BENCH_TOKEN"
	benchLoad    = "bench" // the workload
	kvMount      = "bench-kv"
)

// engine measures, on one server, the latency of rotations, and reads of our paths beside reads of kv-v2.
func engine(ctx context.Context, p *place) ([]Result, error) {
	latency, err := rotateLatency(ctx, client.New(p.vault.Client, bed.Mount))
	if err != nil {
		return nil, fmt.Errorf("rotating: %w", err)
	}
	readers := make([]*reader, clients)
	for n := range readers {
		if readers[n], err = newReader(ctx, p.vault, fmt.Sprintf("reader-%d", n)); err != nil {
			return nil, err
		}
	}
	watch, kv, err := throughput(ctx, readers, (*reader).watch)
	if err != nil {
		return nil, err
	}
	creds, kvAgain, err := throughput(ctx, readers, (*reader).creds)
	if err != nil {
		return nil, err
	}
	return []Result{
		rates("engine-watch", "req/s", watch, kv).against(0.50), rates("engine-creds", "req/s", creds, kvAgain).against(0.42), alone("rotate-latency", latency),
	}, nil
}

// furnished makes the key, the workload and the peer's secret.
func furnished(ctx context.Context, p *place) error {
	vault := p.vault.Client
	if err := vault.Sys().MountWithContext(ctx, kvMount, &api.MountInput{Type: "kv-v2"}); err != nil {
		return err
	}
	for _, w := range []struct {
		path string
		data map[string]any
	}{
		{bed.Mount + "/config", map[string]any{"soak": 0, "observe": 0, "max_instances_per_login": 0}},
		{bed.Mount + "/keys/" + benchKey, map[string]any{"generate": true, "format": "hex"}},
		{bed.Mount + "/workloads/" + benchLoad, map[string]any{"presents": benchKey, "verifies": benchKey, "max_unavailable": "100%", "max_instances": 10000}},
	} {
		if _, err := vault.Logical().WriteWithContext(ctx, w.path, w.data); err != nil {
			return fmt.Errorf("%s: %w", w.path, err)
		}
	}
	_, err := vault.KVv2(kvMount).Put(ctx, "bench", map[string]any{"token": "0123456789abcdef0123456789abcdef"})
	return err
}

// reader is one client: an instance of the workload, with connections of its own.
type reader struct {
	vault    *api.Client
	engine   *client.Client
	instance string
	etag     string
}

func newReader(ctx context.Context, v *bed.Vault, instance string) (*reader, error) {
	config := v.Client.CloneConfig()
	config.HttpClient = api.DefaultConfig().HttpClient // a shared one keeps fewer idle connections than there are clients
	vault, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	vault.SetToken(v.Token)
	vault.ClearNamespace()
	r := &reader{vault: vault, engine: client.New(vault, bed.Mount), instance: instance}
	return r, r.creds(ctx)
}

func (r *reader) kv(ctx context.Context) error {
	secret, err := r.vault.Logical().ReadWithContext(ctx, kvMount+"/data/bench")
	if err == nil && secret == nil {
		err = errors.New("kv-v2 gives no secret")
	}
	return err
}

// watch asks as a live instance that is up to date.
func (r *reader) watch(ctx context.Context) error {
	watched, err := r.engine.Watch(ctx, benchLoad, r.instance, r.etag, 0)
	if err == nil && watched.Changed {
		err = fmt.Errorf("the bundle of %s has changed, though nothing rotates", r.instance)
	}
	return err
}

func (r *reader) creds(ctx context.Context) error {
	bundle, err := r.engine.Creds(ctx, benchLoad, r.instance)
	r.etag = bundle.Etag
	return err
}

// throughput lets all readers do ours and kv-v2 in turn, and returns the median rate of each.
func throughput(ctx context.Context, readers []*reader, ours func(*reader, context.Context) error) (o, p float64, err error) {
	var mine, kv []float64
	for range engineRounds {
		for _, side := range []struct {
			do   func(*reader, context.Context) error
			into *[]float64
		}{{ours, &mine}, {(*reader).kv, &kv}} {
			rate, err := hammer(ctx, readers, side.do)
			if err != nil {
				return 0, 0, err
			}
			*side.into = append(*side.into, rate)
		}
	}
	return median(mine), median(kv), nil
}

// hammer lets all readers do something again and again for a while, and returns the requests/s.
func hammer(ctx context.Context, readers []*reader, do func(*reader, context.Context) error) (float64, error) {
	counts, errs := make([]int, len(readers)), make([]error, len(readers))
	var group sync.WaitGroup
	begun := time.Now()
	for n, r := range readers {
		group.Go(func() {
			for errs[n] == nil && time.Since(begun) < roundTime {
				errs[n] = do(r, ctx)
				counts[n]++
			}
		})
	}
	group.Wait()
	took, total := time.Since(begun), 0
	for _, n := range counts {
		total += n
	}
	return float64(total) / took.Seconds(), errors.Join(errs...)
}
