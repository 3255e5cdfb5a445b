// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// pair is a login kind whose versions have one of two users in turn, as those of Redis have.
type pair struct {
	named
	drawn *int
}

func (p pair) Generate(_ io.Reader, _ key.Key, from key.Value) (key.Value, error) {
	*p.drawn++
	user := "a"
	if strings.HasPrefix(from.Reveal(), "a:") {
		user = "b"
	}
	return key.NewValue(fmt.Sprintf("%s:%d", user, *p.drawn)), nil
}

func (p pair) CheckUndelete(c kind.Change) error {
	mine, _ := p.Login(c.To.Value)
	if current, _ := p.Login(c.From.Value); current == mine {
		return kind.HasLoginOfCurrent(c, mine)
	}
	if c.Connection.Options["note"] == mine {
		return errors.New("it is the administrator's")
	}
	return nil
}

func (p pair) Undelete(ctx context.Context, c kind.Change) error {
	if err := p.CheckUndelete(c); err != nil {
		return err
	}
	return p.login.Undelete(ctx, c)
}

// Where two logins take turns, that of every version before last is the current version's. Undeleting it is refused before
// anything is stored; after a rotation it is free.
func TestUndeleteOfTheLoginInUse(t *testing.T) {
	h, l := connected(t)
	h.kinds = kind.List{pair{named{l}, new(int)}}
	h.open()
	h.retains("db", 10*time.Hour)
	_, _, err := h.engine.First(t.Context(), "db", key.Value{}, testActor)
	h.ok(err)
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"db": {Presents: true}}})
	h.join("api", "api-1")
	h.until(h.rotate("db"), rotation.Done)
	h.until(h.rotate("db"), rotation.Done)
	h.expectVersions("db", "retained, retained, current")
	writes := h.store.writes
	_, _, err = h.engine.Undelete(t.Context(), Undeletion{Key: "db", Version: 1, By: testActor})
	h.refused(err, "version 1 logs in as a, as version 3 does, which is the current one")
	h.refused(err, "undelete version 1 then, while it is retained: vault write hyvve/rotate key=db; nothing was changed")
	if h.store.writes != writes {
		t.Errorf("a refused undeletion made %d writes", h.store.writes-writes)
	}
	h.expectVersions("db", "retained, retained, current")
	h.until(h.rotate("db"), rotation.Done)
	h.undelete(Undeletion{Key: "db", Version: 1, For: time.Hour})
	h.expectVersions("db", "undeleted, retained, retained, current")

	_, err = h.engine.PutConnection(t.Context(), kind.Connection{
		Name: "other", Kind: "login", Options: kind.Options{"url": "y", "note": "a"}, Secrets: map[string]key.Value{kind.FieldPassword: key.NewValue("right")},
	}, true, testActor)
	h.ok(err)
	d := catalog.Definition{Name: "db", Kind: "login", Options: kind.Options{"connection": "other"}}
	_, err = h.engine.PutKey(t.Context(), d, testActor)
	h.refused(err, "version 1 is undeleted, and could not be ended after this change (it is the administrator's); end it first: vault write hyvve/keys/db/retire version=1")
	own := h.records().Keys["db"].Options["connection"]
	before := h.store.writes
	administrator := func() error {
		_, err := h.engine.PutConnection(t.Context(), kind.Connection{Name: own, Options: kind.Options{"note": "a"}}, true, testActor)
		return err
	}
	h.refused(administrator(), "connection "+own+": version 1 of key db is undeleted, and could not be ended after this change (it is the administrator's); end it first: vault write hyvve/keys/db/retire version=1; nothing was stored")
	if now, _ := h.engine.Connection(own); now.Options["note"] != "" || h.store.writes != before {
		t.Errorf("a refused connection is stored: %v, %d writes", now.Options, h.store.writes-before)
	}
	h.ok(h.engine.RetireVersion(t.Context(), "db", 1, false, "", testActor))
	h.ok(administrator())
	_, err = h.engine.PutKey(t.Context(), d, testActor)
	h.ok(err)
}
