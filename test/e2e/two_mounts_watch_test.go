// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// logPrefix begins each entry of PostgreSQL's log, before the name of its user.
const logPrefix = "by="

var (
	markedRole = regexp.MustCompile(`^hyvve mount=(\S+) `)
	// A mark at Redis has the form of a password's hash: it begins with "hyvve\x01", and the mount's six characters follow.
	markedUser = regexp.MustCompile(`^` + hex.EncodeToString([]byte("hyvve\x01")) + `([0-9a-f]{12})`)
)

// seen is what a login had at any time.
type seen struct {
	marks   map[string]bool // mounts
	digests map[string]bool // of passwords, at Redis
}

// watch looks at all logins all the time. What it returns ends that, and wants that each mount's logins have only had marks
// and passwords of that mount.
func (w *twoMounts) watch(t *testing.T) (end func() (looks int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := pgx.Connect(ctx, w.one.admin)
	if err != nil {
		t.Fatal(err)
	}
	all, looks := map[string]seen{}, 0
	var group sync.WaitGroup
	group.Go(func() {
		defer conn.Close(context.Background()) //nolint:errcheck // of a test
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for ctx.Err() == nil {
			if err := w.look(conn, all); err != nil {
				t.Errorf("looking at the servers: %v", err)
				return
			}
			looks++
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	})
	return func() int {
		t.Helper()
		cancel()
		group.Wait()
		for _, m := range w.mounts() {
			m.hadOnlyItsOwn(t, all)
		}
		return looks
	}
}

// look notes what logins have at this moment.
func (w *twoMounts) look(conn *pgx.Conn, all map[string]seen) error {
	of := func(name string) seen {
		if _, there := all[name]; !there {
			all[name] = seen{map[string]bool{}, map[string]bool{}}
		}
		return all[name]
	}
	rows, err := conn.Query(context.Background(), "SELECT rolname, coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_authid")
	if err != nil {
		return err
	}
	var name, comment string
	if _, err := pgx.ForEachRow(rows, []any{&name, &comment}, func() error {
		if m := markedRole.FindStringSubmatch(comment); m != nil {
			of(name).marks[m[1]] = true
		}
		return nil
	}); err != nil {
		return err
	}
	for _, node := range w.nodes {
		lines, err := node.Do(context.Background(), "ACL", "LIST").StringSlice()
		if err != nil {
			return err
		}
		for _, line := range lines {
			f := strings.Fields(line)
			for _, word := range f[2:] {
				digest, is := strings.CutPrefix(word, "#")
				if !is {
					continue
				}
				if m := markedUser.FindStringSubmatch(digest); m != nil {
					mount, _ := hex.DecodeString(m[1])
					of(f[1]).marks[string(mount)] = true
				} else {
					of(f[1]).digests[digest] = true
				}
			}
		}
	}
	return nil
}

func (m *mounted) hadOnlyItsOwn(t *testing.T, all map[string]seen) {
	t.Helper()
	id := m.id(t)
	m.mu.Lock()
	own := map[string]bool{}
	for password := range m.passwords {
		sum := sha256.Sum256([]byte(password))
		own[hex.EncodeToString(sum[:])] = true
	}
	m.mu.Unlock()
	marks, digests := 0, 0
	for name, had := range all {
		if !m.owns(t, name) {
			continue
		}
		for mark := range had.marks {
			if marks++; mark != id {
				t.Errorf("%s, a login of mount %s (%s), had a mark of %s", name, m.mount, id, mark)
			}
		}
		for digest := range had.digests {
			if digests++; !own[digest] {
				t.Errorf("%s, a login of mount %s, had a password that this mount has never given out", name, m.mount)
			}
		}
	}
	if marks < 4 || digests < 2 {
		t.Errorf("of mount %s %d marks and %d passwords were seen", m.mount, marks, digests)
	}
}

// statements reads PostgreSQL's log, which has every statement: no administrator has named a login role of the other mount.
// It returns how many statements name one of its own.
func (w *twoMounts) statements(t *testing.T) (own int) {
	t.Helper()
	data, err := os.ReadFile(w.one.postgres.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	of := map[string][2]string{ // by administrator: what is its own, and what is not
		w.one.root: {"_url_" + w.one.id(t) + "_", "_url_" + w.two.id(t) + "_"},
		w.two.root: {"_url_" + w.two.id(t) + "_", "_url_" + w.one.id(t) + "_"},
	}
	for entry := range strings.SplitSeq("\n"+string(data), "\n"+logPrefix) {
		by, text, _ := strings.Cut(entry, " ")
		names, is := of[by]
		if !is {
			continue
		}
		if strings.Contains(text, names[0]) {
			own++
		}
		if strings.Contains(text, names[1]) {
			t.Errorf("%s has said: %.300s", by, text)
		}
	}
	return own
}
