// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// issuer is a kind whose server makes the values, and no more than a list of them. Its orders are order:NONCE/ATTEMPT.
type issuer struct {
	mu     sync.Mutex
	down   bool
	made   int
	values []madeValue

	// What is broken.
	issueKeeps, issueTakesAll, stageKeeps, unstageKeeps, retireKeeps, forgetful, orderless bool
}

type madeValue struct{ id, order, value string }

func (*issuer) Name() string                                              { return "issuer" }
func (*issuer) Summary() string                                           { return "a value that a list makes" }
func (*issuer) Fields() []kind.Field                                      { return nil }
func (i *issuer) Normalize(o kind.Options) (kind.Options, error)          { return kind.Defaults(i.Fields(), o) }
func (*issuer) Sessionless()                                              {}
func (*issuer) InUse(Context, Change) (count int, what string, err error) { return 0, "", nil }

func (*issuer) Check(_ kind.Options, v key.Value) ([]string, error) {
	if v.Empty() {
		return nil, errors.New("value is empty")
	}
	return nil, nil
}

func (*issuer) Generate(random io.Reader, _ key.Key, _ key.Value) (key.Value, error) {
	nonce := make([]byte, 8)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return key.Value{}, err
	}
	return key.NewValue(fmt.Sprintf("order:%x/0", nonce)), nil
}

func (i *issuer) Attempt(v key.Value) (key.Value, bool) {
	order, attempt, ok := strings.Cut(v.Reveal(), "/")
	n, err := strconv.Atoi(attempt)
	if !ok || err != nil || !strings.HasPrefix(order, "order:") {
		return key.Value{}, false
	}
	if i.orderless { // each attempt has the name of the first
		return key.NewValue(order + "/1"), true
	}
	return key.NewValue(fmt.Sprintf("%s/%d", order, n+1)), true
}

// splitOrder returns the name of an order and its attempt.
func splitOrder(text string) (order string, attempt int) {
	order, of, _ := strings.Cut(text, "/")
	attempt, _ = strconv.Atoi(of)
	return order, attempt
}

func (i *issuer) Issue(_ Context, c Change) (kind.Issued, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.down {
		return kind.Issued{}, errors.New("nobody answers")
	}
	order, attempt := splitOrder(c.To.Value.Reveal())
	i.values = slices.DeleteFunc(i.values, func(m madeValue) bool {
		of, n := splitOrder(m.order)
		return of == order && !i.issueKeeps && (n < attempt || i.issueTakesAll)
	})
	i.made++
	m := madeValue{fmt.Sprintf("id-%d", i.made), c.To.Value.Reveal(), fmt.Sprintf("made-by-the-list-%d", i.made)}
	i.values = append(i.values, m)
	return kind.Issued{Value: key.NewValue(m.value), Handle: order + " " + m.id}, nil
}

// sweep revokes what attempts at a version have made, but for its value if that stays.
func (i *issuer) sweep(v key.Version, stays, broken bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.down {
		return errors.New("nobody answers")
	}
	order, id, _ := strings.Cut(v.Handle, " ")
	if v.Handle == "" {
		order, _ = splitOrder(v.Value.Reveal())
	}
	i.values = slices.DeleteFunc(i.values, func(m madeValue) bool {
		of, _ := splitOrder(m.order)
		if m.id == id {
			return !stays
		}
		return of == order && !broken
	})
	return nil
}

func (i *issuer) Stage(_ Context, c Change) error {
	if _, order := i.Attempt(c.To.Value); order {
		return errors.New("there is no value yet")
	}
	return i.sweep(c.To, true, i.stageKeeps)
}

func (i *issuer) Unstage(_ Context, c Change) error { return i.sweep(c.To, false, i.unstageKeeps) }

func (i *issuer) Retire(_ Context, c Change) error {
	return errors.Join(i.sweep(c.From, false, false), i.sweep(c.To, true, i.retireKeeps))
}

func (i *issuer) Verify(_ Context, c Change) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.down || !i.forgetful && !i.valid(c.To.Value) {
		return errors.New("the value is refused")
	}
	return nil
}

func (i *issuer) valid(v key.Value) bool {
	return slices.ContainsFunc(i.values, func(m madeValue) bool { return m.value == v.Reveal() })
}

// issuing returns a world around the kind, of which nothing is broken but what do breaks.
func issuing(do func(*issuer)) maker {
	return func() World {
		i := &issuer{}
		do(i)
		set := func(down bool) func(testing.TB) {
			return func(testing.TB) {
				i.mu.Lock()
				defer i.mu.Unlock()
				i.down = down
			}
		}
		return World{
			Kind: i, Key: key.Key{Name: "token", Env: "TOKEN"}, Stop: set(true), Start: set(false),
			Valid: func(_ testing.TB, v key.Value) bool {
				i.mu.Lock()
				defer i.mu.Unlock()
				return i.valid(v)
			},
			Credentials: func(testing.TB) (ids []string) {
				i.mu.Lock()
				defer i.mu.Unlock()
				for _, m := range i.values {
					ids = append(ids, m.id)
				}
				return ids
			},
		}
	}
}

// brokenIssuers are wrong about what was lost.
var brokenIssuers = map[string]variant{
	"an issuer that is right":        {"lost values are revoked", "", issuing(func(*issuer) {})},
	"what is lost stays":             {"lost values are revoked", "whose first value was lost", issuing(func(i *issuer) { i.issueKeeps, i.stageKeeps = true, true })},
	"unstage forgets what is lost":   {"lost values are revoked", "after Unstage of a value that was lost", issuing(func(i *issuer) { i.unstageKeeps = true })},
	"an order is verified":           {"lost values are revoked", "Verify succeeds although the value", issuing(func(i *issuer) { i.forgetful = true })},
	"attempts have one name":         {"an older attempt harms no younger one", "", issuing(func(i *issuer) { i.orderless = true })},
	"an attempt revokes all others":  {"an older attempt harms no younger one", "after an older attempt: the new version is not valid", issuing(func(i *issuer) { i.issueTakesAll = true })},
	"retire forgets what comes late": {"an older attempt harms no younger one", "after an older attempt and a rotation", issuing(func(i *issuer) { i.retireKeeps = true })},
}
