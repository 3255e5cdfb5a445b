// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// mark is the comment (COMMENT ON ROLE) that says whose a role is. It is written in the transaction that changes the role's
// password or login, by those who may do that, and is not changed when the role is locked.
type mark struct {
	mount   string
	key     string
	version int    // whose password the role has, or had when it was locked
	id      string // of the version's fingerprint: a restored Vault assigns the same number to another value
}

var markForm = regexp.MustCompile(`^hyvve mount=([a-z2-7]*) key=([a-z0-9][a-z0-9._-]*) version=([0-9]{1,9})(?: id=([0-9a-f]+))?$`)

// idLength is how many characters of a fingerprint a mark has.
const idLength = 8

func markOf(k key.Key, v key.Version) mark {
	return mark{mount: k.Mount, key: k.Name, version: v.Number, id: v.Fingerprint[:min(idLength, len(v.Fingerprint))]}
}

func (m mark) String() string {
	text := fmt.Sprintf("hyvve mount=%s key=%s version=%d", m.mount, m.key, m.version)
	if m.id != "" {
		text += " id=" + m.id
	}
	return text
}

// readMark reads a role's comment. Any other comment is no mark.
func readMark(comment string) (mark, bool) {
	parts := markForm.FindStringSubmatch(comment)
	if parts == nil {
		return mark{}, false
	}
	version, err := strconv.Atoi(parts[3])
	return mark{mount: parts[1], key: parts[2], version: version, id: parts[4]}, err == nil
}

// statement writes the mark.
func (m mark) statement(role string) string {
	return "COMMENT ON ROLE " + quote(role) + " IS " + literal(m.String())
}

// of reports whether the mark is that of a key.
func (m mark) of(k key.Key) bool { return m.mount == k.Mount && m.key == k.Name }

// is reports whether the mark is that of a version and no other's of the same number.
func (m mark) is(k key.Key, v key.Version) bool { return m.id != "" && m == markOf(k, v) }

// nextLogin returns the login role of the next version. Numbers that are left out, such as those of versions that only a
// server knows, are turns that have been taken.
func nextLogin(of key.Key, from key.Value, user string) string {
	turns := 1
	for _, v := range of.Versions {
		if v.State == key.Current && v.Value.Equal(from) {
			turns = max(1, of.NextNumber()-v.Number)
		}
	}
	return roleNames.Next(of, user, turns)
}

// newest is the highest number of a version that Vault knows of, be it that a server has told.
func newest(c kind.Change) int { return max(c.To.Number, c.From.Number, c.Key.NextNumber()-1) }

// unknown reports whether a mark is that of a version which this Vault has never had.
func (m mark) unknown(c kind.Change) bool {
	for _, v := range append([]key.Version{c.From, c.To}, c.Key.Versions...) {
		if known := markOf(c.Key, v); m == known || m.version == v.Number && (m.id == "" || known.id == "") {
			return false
		}
	}
	return true
}

// proof reports whether the password of a version logs in.
type proof func() (bool, error)

// proves tries the password of a version at the server itself, which has to ask for it.
func (k *Kind) proves(ctx context.Context, c kind.Change, u dsn.URL) proof {
	return func() (bool, error) {
		at := home(c.Connection)
		at.database = u.Path()
		return k.proven(ctx, c.Connection, at, u)
	}
}

// mayStage returns an error where To's role is not the key's to change: nobody else may use it. The role does not exist, or
// is the key's by its mark and locked, or has this version's password already, since an earlier call was cut short.
func mayStage(c kind.Change, found map[string]known, from, to string, proven proof) error {
	if err := ahead(c, found, from, to); err != nil {
		return err
	}
	of, there := found[to]
	m, marked := readMark(of.Comment)
	switch {
	case !there:
		return nil
	case marked && !m.of(c.Key):
		return foreign(c.Key, to, m)
	case marked && (!of.Login || m.is(c.Key, c.To)):
		return nil
	case !marked && !of.Login && adopts(c.Key, found, from, to):
		return nil
	}
	if of.Login {
		if ok, err := proven(); ok || err != nil {
			return err
		}
	}
	if !marked {
		return faultf("role %s exists, and was not made by this key: its comment is no mark of hyvve's. Nothing was changed. Let the key have other login roles with username= of hyvve/keys/%s, or take that role away: DROP ROLE %s", to, c.Key.Name, quote(to))
	}
	if m.version >= c.To.Number {
		return aheadOf(c, to, m)
	}
	if occupied := kind.OccupiedBy(c.Key, m.version, "role "+to); occupied != nil {
		return faultf("%w", occupied)
	}
	return faultf("role %s can log in with a password of version %d, which is not in use as far as Vault knows. Nothing was changed. If nobody uses the role, lock it: ALTER ROLE %s NOLOGIN", to, m.version, quote(to))
}

// adopts reports whether an unmarked, locked role is the other one of a pair that a release before marks has made: the
// present version's role is the first one, and unmarked, too.
func adopts(k key.Key, found map[string]known, from, to string) bool {
	if !roleNames.ArePair(k, from, to) {
		return false
	}
	_, marked := readMark(found[from].Comment)
	return !marked
}

// ahead returns an error if a login role belongs to a version that Vault has never had. It returns nil if Vault has learned of
// that version by reconcile and its own version is valid again.
func ahead(c kind.Change, found map[string]known, from, to string) error {
	names, _ := roleNames.Siblings(c.Key, to)
	present, there := found[from]
	for _, role := range names {
		of := found[role]
		if m, ok := readMark(of.Comment); ok && of.Login && m.of(c.Key) && m.version > c.From.Number && m.unknown(c) &&
			(m.version > newest(c) || there && !present.Login) {
			return aheadOf(c, role, m)
		}
	}
	return nil
}

func aheadOf(c kind.Change, role string, m mark) error {
	return faultf("the server is ahead of Vault: role %s logs in with version %d of this key, which this Vault has not made. Was Vault restored from an older snapshot? Nothing was changed. Make version %d, which is in use as far as Vault knows, valid beside it, and rotate again after that: vault write -f hyvve/keys/%s/reconcile",
		role, m.version, cmp.Or(c.From.Number, c.To.Number), c.Key.Name)
}

// foreign is the error for a role that is another key's.
func foreign(k key.Key, role string, m mark) error {
	whose := fmt.Sprintf("key %s of this mount", m.key)
	if m.mount != k.Mount {
		whose = fmt.Sprintf("key %s of another mount (%s; this one is %s)", m.key, m.mount, k.Mount)
	}
	return faultf("role %s belongs to %s, by its comment. Nothing was changed. Let key %s have other login roles with username= of hyvve/keys/%s; or, if that key and its mount are gone and nobody uses the role: DROP ROLE %s",
		role, whose, k.Name, k.Name, quote(role))
}

// marks returns the statements that mark the role of To and, where a release before marks has made it, that of From.
func marks(c kind.Change, found map[string]known, from, to string) []string {
	statements := []string{markOf(c.Key, c.To).statement(to)}
	if of, there := found[from]; there && of.Comment == "" && roleNames.Ours(c.Key, from) {
		statements = append(statements, markOf(c.Key, c.From).statement(from))
	}
	return statements
}

// mayRetire returns an error where From's role carries the mark of another mount's key. Keys of one mount that share a role
// are rotated together, and the engine lets none of them end it while another needs it.
func mayRetire(c kind.Change, of known, from string) error {
	if m, ok := readMark(of.Comment); ok && m.mount != c.Key.Mount {
		return faultf("role %s belongs to key %s of mount %s, by its comment, so that it is not locked; if that is not so any more, take the comment away: COMMENT ON ROLE %s IS NULL", from, m.key, m.mount, quote(from))
	}
	return nil
}

// mayUnstage reports whether To's role is as Stage has made it for this version, and not somebody else's for whose sake
// Stage has refused it.
func mayUnstage(c kind.Change, of known, there bool, proven proof) (bool, error) {
	m, marked := readMark(of.Comment)
	switch {
	case !there || marked && !m.of(c.Key):
		return false, nil
	case marked && (m.is(c.Key, c.To) || !of.Login && m == markOf(c.Key, c.To)):
		return true, nil
	case of.Login:
		return proven()
	}
	return false, nil
}

// begin begins a transaction that changes a role, and returns what its first statement finds. Others who want to change the
// role wait for an advisory lock. Every role of the database can take that lock, too: where nobody holds it who could change
// the role, the transaction continues without it.
func begin(ctx context.Context, conn *pgx.Conn, role, first string) (*pgconn.Result, error) {
	const level = "BEGIN ISOLATION LEVEL READ COMMITTED"
	key := "hashtextextended(" + literal("hyvve "+role) + ", 0)"
	results, err := together(ctx, conn, level, "SELECT pg_advisory_xact_lock("+key+")", first)
	if hasState(err, stateLockNotAvailable) {
		if results, err = together(ctx, conn, "ROLLBACK", heldByUs(key)); err != nil {
			return nil, err
		}
		if string(results[1].Rows[0][0]) == "t" {
			return nil, faultf("role %s is being changed by somebody else, who has not ended for %s; it is tried again", role, lockTimeout)
		}
		results, err = together(ctx, conn, level, first)
	}
	if err != nil {
		return nil, err
	}
	return results[len(results)-1], nil
}

// heldByUs asks whether a session holds an advisory lock of the database whose role could change others.
func heldByUs(key string) string {
	return `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_get_activity(NULL) a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND (l.classid::int8 << 32) | l.objid::int8 = ` + key + `
			AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
			AND EXISTS (SELECT FROM pg_roles r WHERE (r.rolsuper OR r.rolcreaterole) AND pg_has_role(a.usesysid, r.oid, 'MEMBER')))`
}

// lockedFor is how long a role's sessions may keep it from being locked before they are ended: less than lockTimeout, so that
// the statement which locks it is waiting by then, and comes before what new sessions want.
const lockedFor = time.Second

// despiteSessions locks a role. A session of the role may hold the role's own row, by ALTER ROLE … PASSWORD in a transaction that
// it keeps open. With Cut it is ended while the lock is waited for.
func (k *Kind) despiteSessions(ctx context.Context, c kind.Change, role string, lock func() error) error {
	err := lock()
	if !c.Cut || !hasState(err, stateLockNotAvailable) {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		if err := backoff.Wait(ctx, lockedFor); err != nil {
			ended <- err
			return
		}
		ended <- k.end(ctx, c.Connection, role)
	}()
	err = lock()
	return errors.Join(err, <-ended)
}
