// SPDX-License-Identifier: Apache-2.0

// Package plugin is the Vault secrets engine: its paths, over the engine in internal/rotation. This file is the table
// of contents; each path_*.go holds schema, handlers and help of one path.
package plugin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/guard"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/kinds"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
)

const operationPrefix = "hyvve"

type backend struct {
	*framework.Backend
	kinds kind.List
	paths *regexp.Regexp // see [enginePaths]

	observer observer

	// A write of a definition is put over what is stored: another write of it waits meanwhile. By path.
	definitions guard.Names

	mu       sync.Mutex
	engine   *engine.Engine // nil until the first request, and after Invalidate
	maxLease time.Duration  // of the mount, as Vault said at maxAsked
	maxAsked time.Time
}

var _ logical.Factory = Factory

// Factory makes the backend for Vault.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	if conf == nil {
		return nil, errors.New("configuration passed into backend is nil")
	}
	b := newBackend(kinds.All())
	if err := b.Setup(ctx, conf); err != nil {
		return nil, fmt.Errorf("setting up the backend: %w", err)
	}
	return b, nil
}

func newBackend(list kind.List) *backend {
	b := &backend{kinds: list}
	b.observer = newObserver(b)
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(help),
		BackendType:    logical.TypeLogical,
		RunningVersion: version.Version,
		PathsSpecial:   &logical.Paths{SealWrapStorage: engine.SealWrapped()},
		Paths: framework.PathAppend( // the framework tries their patterns in this order: what sidecars ask for comes first
			b.pathsWatch(),
			b.pathsCreds(),
			b.pathsReport(),
			b.pathsConfig(),
			b.pathsConnections(),
			b.pathsReconcile(), // before keys/, whose pattern takes any name
			b.pathsUndelete(),
			b.pathsTripwires(),
			b.pathsKeys(),
			b.pathsRotate(),
			b.pathsReceipt(),
			b.pathsRotations(),
			b.pathsEscalate(),
			b.pathsInstances(), // before workloads/, whose pattern takes any name
			b.pathsWorkloads(),
			b.pathsJournal(),
			b.pathsPresets(),
			b.pathsStatus(),
			b.pathsMetrics(),
			b.pathsIdentify(),
		),
		Secrets:        []*framework.Secret{b.secretBundle()},
		InitializeFunc: b.initialize,
		Invalidate:     func(context.Context, string) { b.drop() },
		Clean:          func(context.Context) { b.drop(); b.closeKinds(); b.observer.close() },
		// Vault calls PeriodicFunc every minute: a plugin process that Vault has restarted without a request continues its
		// rotations by then at the latest.
		PeriodicFunc: func(ctx context.Context, req *logical.Request) error {
			_, err := b.open(ctx, req.Storage)
			return err
		},
	}
	b.paths = enginePaths(b.Paths)
	return b
}

// initialize continues unfinished rotations as soon as the mount is there.
func (b *backend) initialize(ctx context.Context, req *logical.InitializationRequest) error {
	_, err := b.open(ctx, req.Storage)
	return err
}

// open returns the engine, reading the mount's records first if need be: at the first request, and after a write failed of
// which nobody knows whether it took effect. Only a node that may write serves instances and moves rotations on.
func (b *backend) open(ctx context.Context, storage logical.Storage) (*engine.Engine, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.engine != nil && !b.engine.Stale() {
		return b.engine, nil
	}
	if b.engine != nil {
		b.Logger().Warn("a write to storage has failed; reading the mount's records again")
		b.engine.Close()
		b.engine = nil
	}
	opened, err := engine.Open(ctx, engine.Options{
		Store:    store{storage},
		Kinds:    b.kinds,
		Observer: b.observer,
		Now:      time.Now,
		Random:   rand.Reader,
	})
	if err != nil {
		return nil, err
	}
	if b.WriteSafeReplicationState() {
		if err := opened.Begin(ctx); err != nil {
			opened.Close()
			return nil, err
		}
		opened.Start()
	}
	b.engine = opened
	return opened, nil
}

// askAgain is for how long an answer of Vault on the mount's longest lease is good: each question is a call between
// processes.
const askAgain = 10 * time.Second

// longestLease is the longest that Vault lets a lease of this mount last.
func (b *backend) longestLease() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := time.Now(); now.Sub(b.maxAsked) > askAgain {
		b.maxLease, b.maxAsked = b.System().MaxLeaseTTL(), now
	}
	return b.maxLease
}

// drop forgets what is in memory and wakes all who wait; the next request reads storage again, and not before the engine
// that is dropped has ceased to write.
func (b *backend) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.engine != nil {
		b.engine.Close()
		b.engine = nil
	}
}

// closeKinds ends what kinds have open at servers.
func (b *backend) closeKinds() {
	for _, k := range b.kinds {
		if c, ok := k.(io.Closer); ok {
			if err := c.Close(); err != nil {
				b.Logger().Warn("closing a kind's connections", "kind", k.Name(), "error", err)
			}
		}
	}
}

// handler is an operation on the engine.
type handler func(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error)

// on makes a framework callback: a refusal is the caller's to mend and becomes a 400, any other error is ours.
//
// A node that does not write answers logical.ErrReadOnly, by which Vault forwards the request to the active node: it alone
// has the live instances and moves rotations on. The framework's own ForwardPerformanceStandby and -Secondary do the same,
// and ask Vault for the replication state at each request, which costs two calls between processes. Here it is asked when
// the engine is opened: a node that becomes active, or ceases to be, sets up its backends again.
func (b *backend) on(h handler) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		e, err := b.open(ctx, req.Storage)
		if err != nil {
			return nil, err
		}
		if !e.Writes() {
			return nil, logical.ErrReadOnly
		}
		e.Arrived()
		resp, err := h(ctx, e, req, d)
		var refused *rotation.Refused
		if errors.As(err, &refused) {
			return logical.ErrorResponse(refused.Error()), nil
		}
		return resp, err
	}
}

// operation describes a handler, and the type of its response, to the framework. A write with a parameter that the path does not have is refused: the
// framework only warns, when the work is done, and a misspelt dry_run would rotate the key.
func (b *backend) operation(h handler, response any, verb, suffix, summary string) framework.OperationHandler {
	return b.lenient(strict(h), response, verb, suffix, summary)
}

// lenient is operation for what sidecars write: one of a newer release may say more than this one understands.
func (b *backend) lenient(h handler, response any, verb, suffix, summary string) framework.OperationHandler {
	return operation{&framework.PathOperation{
		Callback:  b.on(h),
		Summary:   summary,
		Responses: responses(response),
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: verb, OperationSuffix: suffix,
		},
	}, response}
}

// listing is the path that lists the names of all objects of a sort.
func (b *backend) listing(path, summary, help string, names func(context.Context, *engine.Engine) ([]string, error)) *framework.Path {
	list := func(ctx context.Context, e *engine.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
		all, err := names(ctx, e)
		if err != nil {
			return nil, err
		}
		return answer(api.List{Keys: all}), nil
	}
	return &framework.Path{
		Pattern:         path + "/?$",
		Operations:      map[logical.Operation]framework.OperationHandler{logical.ListOperation: b.operation(list, api.List{}, "list", path, summary)},
		HelpSynopsis:    summary,
		HelpDescription: help,
	}
}

func strict(h handler) handler {
	return func(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		writes := req.Operation == logical.CreateOperation || req.Operation == logical.UpdateOperation
		for _, name := range slices.Sorted(maps.Keys(req.Data)) {
			if drops := name == "drop" && d.Schema[name] != nil; req.Operation == logical.DeleteOperation && !drops { // a dry_run, say
				return nil, rotation.Refusef("parameter %q has no meaning where something is deleted, and nothing was changed; leave it out", name)
			}
			if writes && d.Schema[name] == nil {
				return nil, rotation.Refusef("parameter %q is not known, and nothing was changed; use one of: %s", name, strings.Join(slices.Sorted(maps.Keys(d.Schema)), ", "))
			}
		}
		return h(ctx, e, req, d)
	}
}

// exists makes an existence check of a predicate on the engine and a name.
func (b *backend) exists(field string, there func(e *engine.Engine, name string) bool) framework.ExistenceFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
		e, err := b.open(ctx, req.Storage)
		if err != nil {
			return false, err
		}
		return there(e, d.Get(field).(string)), nil
	}
}

// caller is who asks, for journal and versions.
func caller(req *logical.Request) rotation.Actor {
	name := req.DisplayName
	if name == "" {
		name = "unknown"
	}
	return rotation.Actor{Name: name, Entity: req.EntityID}
}

// token is whose token a request comes with.
func token(req *logical.Request) fleet.Token {
	return fleet.Token{ID: req.ClientToken, Accessor: req.ClientTokenAccessor, Entity: req.EntityID, Name: req.DisplayName}
}

const help = `
The hyvve engine versions and rotates the keys of the HYVVE platform. Every instance accepts a new version of a key before
anyone presents it. The old version is retired only on evidence that nobody uses it.

  presets/hyvve     all the platform's keys and workloads in one call
  connections/      administrators' logins at the servers where keys are valid
  keys/             keys and their versions; keys/NAME/undelete brings a retired one back, retire and erase end it
  workloads/        who loads which keys, and the live instances; workloads/NAME/instances/ has each of them
  rotate            start a rotation
  rotations/        look at rotations and their gates; pause, resume, confirm or revert one
  creds/            what one instance should hold now, as a lease
  watch/, report/   for sidecars: wait for a change; say what is loaded and healthy
  leave/            for sidecars: an instance has ended
  status            every key with age, what is running and what blocks
  journal/          who did what to which version when, and why; journal/verify checks that nobody changed it
  config            mount-wide defaults

Read "vault path-help hyvve/rotate" next.
`

// observer logs what the engine does, and sends events where the edition of Vault has them. Events wait for nobody: Vault
// is asked beside the engine's work, and when it does not keep up they are dropped, which is logged. The journal has all.
type observer struct {
	b      *backend
	events chan event
	ended  *sync.Once
	done   chan struct{}
}

type event struct{ rotation, state, step string }

var _ engine.Observer = observer{}

// pending is how many events may wait.
const pending = 256

func newObserver(b *backend) observer {
	o := observer{b: b, events: make(chan event, pending), ended: &sync.Once{}, done: make(chan struct{})}
	go o.send()
	return o
}

func (o observer) close() { o.ended.Do(func() { close(o.done) }) }

func (o observer) send() {
	for {
		select {
		case <-o.done:
			return
		case e := <-o.events:
			err := logical.SendEvent(context.Background(), o.b, "hyvve/rotation",
				"rotation", e.rotation, "state", e.state, "step", e.step, "modified", "true")
			if err != nil && !errors.Is(err, framework.ErrNoEvents) {
				o.b.Logger().Warn("event not sent", "rotation", e.rotation, "error", err)
			}
		}
	}
}

// Moved implements rotation.Observer.
func (o observer) Moved(r rotation.Rotation, e rotation.Event) {
	o.b.Logger().Info("rotation moved", "rotation", r.ID, "keys", r.KeyNames(), "state", e.State, "step", e.Step, "text", e.Text, "reason", e.Reason)
	select {
	case o.events <- event{r.ID, string(e.State), string(e.Step)}:
	default:
		o.b.Logger().Warn("event dropped: Vault does not keep up", "rotation", r.ID)
	}
}

// Journal implements rotation.Observer. A copy of the log elsewhere can be compared with hyvve/journal/verify later.
func (o observer) Journal(h journal.Head) {
	o.b.Logger().Info("journal head", "count", h.Count, "head", h.Hash)
}

// Fault implements rotation.Observer.
func (o observer) Fault(what string, err error) {
	o.b.Logger().Error("engine fault", "what", what, "error", err)
}

// store is Vault's storage as the engine sees it.
type store struct{ storage logical.Storage }

var _ engine.Store = store{}

func (s store) Get(ctx context.Context, path string) ([]byte, error) {
	entry, err := s.storage.Get(ctx, path)
	if err != nil || entry == nil {
		return nil, err
	}
	return entry.Value, nil
}

func (s store) Put(ctx context.Context, path string, data []byte) error {
	return s.storage.Put(ctx, &logical.StorageEntry{Key: path, Value: data, SealWrap: sealWrapped(path)})
}

func (s store) Delete(ctx context.Context, path string) error { return s.storage.Delete(ctx, path) }

func (s store) List(ctx context.Context, prefix string) ([]string, error) {
	return s.storage.List(ctx, prefix)
}

func sealWrapped(path string) bool {
	for _, prefix := range engine.SealWrapped() {
		if len(path) > len(prefix) && path[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}
