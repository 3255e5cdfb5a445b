// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/api"

	engineapi "github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
)

const (
	followWait  = 5 * time.Second // as long as the engine lets a request wait
	retryEvery  = time.Second     // while Vault is away
	lookEvery   = 2 * time.Second // where too many wait for rotations already
	restBetween = 200 * time.Millisecond
)

// news is what has become of a rotation.
type news struct {
	engineapi.Rotation        // as last read
	away               string // what keeps Vault from answering, in words; empty: it has answered
}

// watch tells what becomes of a rotation until tell returns true. A Vault that is away is waited for, and so is a login if the token
// is one that "vault login" stores. known: the rotation has been seen before, so that even the first request may fail.
func (s *session) watch(ctx context.Context, name string, known bool, tell func(news) (enough bool)) error {
	n, since, crowded := news{}, int64(0), false
	for {
		wait := followWait
		if crowded {
			wait = 0
		}
		asked := time.Now()
		r, err := s.engine.Follow(ctx, name, since, wait)
		var response *api.ResponseError
		rest := time.Duration(0)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &response) && response.StatusCode == http.StatusTooManyRequests:
			crowded, rest = true, lookEvery
		case err != nil:
			away, fault := s.awaited(ctx, err, known)
			if fault != nil {
				return s.suggest(ctx, fault, name)
			}
			crowded, rest = false, retryEvery
			if away != n.away {
				n.away = away
				tell(n)
			}
		default:
			changed := !known || r.Revision != since || n.away != ""
			name, since, known, n = r.ID, r.Revision, true, news{Rotation: r}
			if changed && tell(n) {
				return nil
			}
			if !changed && time.Since(asked) < restBetween {
				rest = restBetween // it has answered early, without news
			}
			if crowded {
				rest = lookEvery
			}
		}
		if rest > 0 && !pause(ctx, rest) {
			return context.Cause(ctx)
		}
	}
}

// awaited returns what is waited for after an error, in words, or the error if it does not pass.
func (s *session) awaited(ctx context.Context, err error, known bool) (away string, fault error) {
	var t trouble
	if !known || !errors.As(s.explained(ctx, err), &t) {
		return "", err
	}
	switch {
	case t.passing:
		return t.text + " (the rotation is continued by Vault when it is back; waiting)", nil
	case t.login && s.vault.stored:
		s.vault.readStored()
		return t.text + " in another terminal (the rotation continues; waiting)", nil
	case t.login:
		return "", fmt.Errorf("%w (the rotation continues)", t)
	}
	return "", err
}
