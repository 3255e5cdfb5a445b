// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Preflight implements kind.Preflighter: that all nodes are there and allowed, whose the users are, whose rights are to be
// copied, and that the administrator may do at each node what any step needs.
func (k *Kind) Preflight(ctx context.Context, c kind.Change) (blockers, notes []string, err error) {
	t, err := readTurn(c)
	if err != nil {
		return nil, nil, err
	}
	if impossible := k.CheckChange(c); impossible != nil {
		return []string{impossible.Error()}, nil, nil //nolint:nilerr // it is a blocker
	}
	nodes, strangers, err := k.explore(ctx, c.Connection)
	blockers = texts(c.Connection, strangers)
	if err != nil || len(nodes) == 0 {
		return blockers, nil, err
	}
	rights := make([]error, len(nodes))
	lacks := make([]string, len(nodes))
	err = each(nodes, func(i int, n node) (err error) {
		rights[i] = k.checkRights(ctx, c.Connection, n.addr)
		if unreached(rights[i]) {
			return rights[i]
		}
		lacks[i], err = k.lacksKill(ctx, c, n)
		return err
	})
	if err != nil {
		return blockers, nil, err
	}
	for i, err := range rights {
		if err != nil {
			blockers = append(blockers, err.Error())
		}
		if lacks[i] != "" {
			blockers = append(blockers, lacks[i])
		}
	}
	if len(blockers) > len(strangers) {
		return blockers, nil, nil // what follows would ask in vain
	}
	all, err := k.standings(ctx, t, nodes)
	if err != nil {
		return blockers, nil, err
	}
	for _, s := range all {
		if err := t.blocks(all, s); err != nil {
			blockers = append(blockers, err.Error())
		}
		if !t.first && s.old == nil {
			notes = append(notes, fmt.Sprintf("node %s has no user %s of version %d", s.addr, t.old, t.From.Number))
		}
	}
	slices.Sort(blockers)
	return slices.Compact(blockers), notes, nil
}

// lacksKill says what is missing where the sessions of the old user are to be ended.
func (k *Kind) lacksKill(ctx context.Context, c kind.Change, n node) (string, error) {
	if !c.Cut {
		return "", nil
	}
	return k.lacksWanted(ctx, c.Connection, n, wanted[0])
}

// blocks returns an error where the new version cannot be made valid at a node.
func (t turn) blocks(all []standing, s standing) error {
	switch {
	case !t.ours && t.lacks(s):
		return t.notValid(s)
	case !t.ours || !t.lacks(s):
		return t.stranger(all, s)
	}
	if err := t.stranger(all, s); err != nil {
		return err
	}
	if t.beside(s) {
		if s.next.nopass {
			return nopass(s.addr, t.next)
		}
		return nil
	}
	_, _, err := t.rights(all, s)
	return err
}

// stranger returns an error where a user at a node is not the key's to change. One of an undeleted version is no stranger.
func (t turn) stranger(all []standing, s standing) error {
	err := t.mayStage(all[0], s)
	if errors.As(err, new(kind.Occupied)) {
		return nil
	}
	return err
}
