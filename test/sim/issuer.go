// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/token"
)

// issuer is a kind whose server makes the values. Answers get lost, and requests are carried out when nobody waits for them any more.
// Its orders are order:NONCE/ATTEMPT.
type issuer struct {
	token.Kind
	server *server
	made   int
	orders map[string]string // that have made the valid values, by value
	late   map[string]string // an order that is carried out late, by its name
}

var _ kind.Issuer = (*issuer)(nil)

const orderPrefix = "order:"

// Name implements kind.Kind.
func (*issuer) Name() string { return "issuer" }

// Generate implements kind.Generator.
func (*issuer) Generate(random io.Reader, _ key.Key, _ key.Value) (key.Value, error) {
	nonce := make([]byte, 8)
	_, err := io.ReadFull(random, nonce)
	return key.NewValue(fmt.Sprintf("%s%x/0", orderPrefix, nonce)), err
}

// Check implements kind.Kind.
func (*issuer) Check(kind.Options, key.Value) ([]string, error) { return nil, nil }

// Attempt implements kind.Issuer.
func (*issuer) Attempt(v key.Value) (key.Value, bool) {
	if !strings.HasPrefix(v.Reveal(), orderPrefix) {
		return key.Value{}, false
	}
	name, attempt := splitOrder(v.Reveal())
	return key.NewValue(fmt.Sprintf("%s/%d", name, attempt+1)), true
}

func splitOrder(order string) (name string, attempt int) {
	name, text, _ := strings.Cut(order, "/")
	attempt, _ = strconv.Atoi(text)
	return name, attempt
}

// orderOf returns the order of a version, which its value has replaced.
func orderOf(v key.Version) string {
	if v.Handle != "" {
		return v.Handle
	}
	return v.Value.Reveal()
}

// make makes a value.
func (i *issuer) make(c kind.Change, order string) key.Value {
	i.made++
	v := key.NewValue(fmt.Sprintf("made-by-the-server-%d", i.made))
	i.server.of(c)[v.Reveal()], i.orders[v.Reveal()] = true, order
	return v
}

// sweep revokes what attempts at a version have made that are below a number, but for its value; 0: of all attempts.
func (i *issuer) sweep(c kind.Change, v key.Version, below int) {
	name, _ := splitOrder(orderOf(v))
	for value := range i.server.of(c) {
		if of, n := splitOrder(i.orders[value]); of == name && (below == 0 || n < below) && value != v.Value.Reveal() {
			i.server.w.logf("the server revokes a value of version %d of %s that was lost", v.Number, c.Key.Name)
			i.server.w.stats.Lost++
			delete(i.server.of(c), value)
		}
	}
}

// Issue implements kind.Issuer.
func (i *issuer) Issue(_ context.Context, c kind.Change) (kind.Issued, error) {
	w, order := i.server.w, c.To.Value.Reveal()
	if stored, ok := w.engine.Key(c.Key.Name); ok {
		if v, _ := stored.Version(c.To.Number); !v.Value.Equal(c.To.Value) {
			w.violate("key %s: the server hears of an attempt at version %d before it is stored", c.Key.Name, c.To.Number)
		}
	}
	var v key.Value
	err := i.server.call("issue", c, func() {
		_, attempt := splitOrder(order)
		i.sweep(c, c.To, attempt)
		v = i.make(c, order)
	})
	if err != nil {
		if name, _ := splitOrder(order); v.Empty() && w.chance(50) {
			i.late[name] = order
		}
		return kind.Issued{}, err
	}
	return kind.Issued{Value: v, Handle: order}, nil
}

// Stage implements kind.Server.
func (i *issuer) Stage(_ context.Context, c kind.Change) error {
	if stored, ok := i.server.w.engine.Key(c.Key.Name); ok {
		if v, _ := stored.Version(c.To.Number); !v.Value.Equal(c.To.Value) || strings.HasPrefix(v.Value.Reveal(), orderPrefix) {
			i.server.w.violate("key %s: version %d is staged before its value is stored", c.Key.Name, c.To.Number)
		}
	}
	i.belated(c, c.To)
	return i.server.call("stage", c, func() { i.sweep(c, c.To, 0) })
}

// belated carries out what was asked for a version and not answered.
func (i *issuer) belated(c kind.Change, v key.Version) {
	name, _ := splitOrder(orderOf(v))
	if order, ok := i.late[name]; ok {
		delete(i.late, name)
		i.make(c, order)
	}
}

// Verify implements kind.Verifier.
func (i *issuer) Verify(ctx context.Context, c kind.Change) error { return i.server.Verify(ctx, c) }

// InUse implements kind.Server.
func (i *issuer) InUse(ctx context.Context, c kind.Change) (int, string, error) {
	return i.server.InUse(ctx, c)
}

// Retire implements kind.Server.
func (i *issuer) Retire(ctx context.Context, c kind.Change) error {
	err := i.server.Retire(ctx, c)
	if err == nil {
		i.sweep(c, c.From, 0)
		i.sweep(c, c.To, 0)
	}
	return err
}

// Unstage implements kind.Server.
func (i *issuer) Unstage(ctx context.Context, c kind.Change) error {
	i.belated(c, c.To)
	err := i.server.Unstage(ctx, c)
	if err == nil {
		i.sweep(c, c.To, 0)
	}
	return err
}
