// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

var _ kind.Restorer = (*Kind)(nil)

// loss is how the role of a version has ceased to log in with its password.
type loss int

const (
	lossNone    loss = iota
	lossGone         // there is no such role: the server was restored from a dump
	lossLocked       // a rotation has locked it that Vault does not know of, or the server was restored
	lossByHand       // somebody has locked it
	lossOlder        // it has the password of an older version, which Vault has retired: the server was restored
	lossNewer        // it has the password of a version that Vault does not know
	lossChanged      // somebody has changed its password
	lossExpired      // VALID UNTIL is over, so that the server refuses any password
	lossBare         // it has no password
	lossLimit        // it may have no connection
	lossForeign      // it is another key's
	lossRights       // it logs in, and acts as somebody else than its owner; see acting
)

// lossOf says how, of a role whose password does not log in.
func lossOf(c kind.Change, found map[string]known, role string) loss {
	of, there := found[role]
	m, marked := readMark(of.Comment)
	switch {
	case !there:
		return lossGone
	case marked && !m.of(c.Key):
		return lossForeign
	case !of.Login && marked && (m.version != c.To.Number || m.unknown(c) || len(newer(c, found)) > 0):
		return lossLocked
	case !of.Login:
		return lossByHand
	case marked && m.version > c.To.Number, marked && m.unknown(c):
		return lossNewer
	case marked && m.version < c.To.Number:
		return lossOlder
	case of.Expired:
		return lossExpired
	}
	return lossChanged
}

// newer returns the login roles that are in the hands of versions which Vault has never had.
func newer(c kind.Change, found map[string]known) (roles []string) {
	for _, role := range roleNames.Of(c.Key) {
		of := found[role]
		if m, ok := readMark(of.Comment); ok && role != userOf(c) && of.Login && m.of(c.Key) && m.version > c.To.Number && m.unknown(c) {
			roles = append(roles, role)
		}
	}
	return roles
}

func userOf(c kind.Change) string {
	u, _ := urls.Credential(c.To)
	return u.User
}

// problem says what is wrong in words, and what helps.
func (l loss) problem(c kind.Change, role, at string) kind.Problem {
	reconcile := "vault write -f hyvve/keys/" + c.Key.Name + "/reconcile"
	rotate := "vault write hyvve/rotate key=" + c.Key.Name
	p := kind.Problem{Remedy: reconcile}
	switch l {
	case lossNone, lossRights:
	case lossGone:
		p.Text, p.Fixable = fmt.Sprintf("%s has no role %s, with which version %d logs in", at, role, c.To.Number), roleNames.Ours(c.Key, role)
		if !p.Fixable { // what an operator's role may do is the operator's to say: it is not made again
			name := quoteIfNeeded(role)
			p.Remedy = fmt.Sprintf("an operator made it, and its rights are not known here. Make it again: CREATE ROLE %s LOGIN; then \\password %s in psql, with the password of version %d, which hyvve/creds/ of its workload has; then GRANT it what it had. "+
				"Or name another role that has these rights, vault write hyvve/keys/%s owner=ROLE, and rotate the key", name, name, c.To.Number, c.Key.Name)
		}
	case lossLocked:
		p.Text, p.Fixable = fmt.Sprintf("role %s, with which version %d logs in, is locked at %s", role, c.To.Number, at), true
	case lossByHand:
		p.Text, p.Rotates = fmt.Sprintf("role %s, with which version %d logs in, was locked by somebody at %s", role, c.To.Number, at), true
		p.Remedy = "if it should not be: " + reconcile
	case lossOlder:
		p.Text, p.Rotates = fmt.Sprintf("role %s at %s has the password of an older version than %d: was the server restored from a dump?", role, at, c.To.Number), true
	case lossNewer:
		p.Text = fmt.Sprintf("role %s at %s has the password of a version that Vault does not know, and not that of version %d. Was Vault restored from an older snapshot?", role, at, c.To.Number)
		p.Ahead, p.Rotates = true, true
		p.Remedy = fmt.Sprintf("%s gives workloads a version with another role; clients that log in as %s can do so until none is seen", rotate, role)
	case lossChanged:
		p.Text, p.Rotates = fmt.Sprintf("role %s at %s does not log in with the password of version %d: was it changed by hand?", role, at, c.To.Number), true
		p.Remedy = fmt.Sprintf("%s gives workloads a version with another role; clients that were given the new password can use it until none is seen to log in as %s. Or, if nobody was given it, to have version %d back at once: ALTER ROLE %s NOLOGIN, and then %s",
			rotate, role, c.To.Number, quoteIfNeeded(role), reconcile)
	case lossExpired:
		p.Text, p.Rotates = fmt.Sprintf("role %s, with which version %d logs in, is refused by %s since its VALID UNTIL is over", role, c.To.Number, at), true
		p.Remedy = "if it should log in, " + reconcile
		if !roleNames.Ours(c.Key, role) {
			p.Remedy = fmt.Sprintf("if it should log in, ALTER ROLE %s VALID UNTIL 'infinity'; or rotate the key: %s", quoteIfNeeded(role), rotate)
		}
	case lossBare:
		p.Text, p.Rotates = fmt.Sprintf("role %s, with which version %d logs in, has no password at %s", role, c.To.Number, at), true
		p.Remedy = "if it should log in, " + reconcile
	case lossLimit:
		p.Text, p.Rotates = fmt.Sprintf("role %s, with which version %d logs in, has CONNECTION LIMIT 0 at %s: nobody can log in with it", role, c.To.Number, at), true
		p.Remedy = "if it should log in, " + reconcile
		if !roleNames.Ours(c.Key, role) {
			p.Remedy = fmt.Sprintf("if it should log in, ALTER ROLE %s CONNECTION LIMIT -1", quoteIfNeeded(role))
		}
	case lossForeign:
		p.Text = fmt.Sprintf("role %s at %s belongs to another key, by its comment", role, at)
		p.Remedy = "give the key other login roles with username=, and rotate it"
	}
	return p
}

// Inspect implements kind.Inspector: the current version logs in at the server and its replicas, and no other login role is
// in the hands of a version that Vault does not know.
func (k *Kind) Inspect(ctx context.Context, c kind.Change) (f kind.Finding, err error) {
	u, err := urls.Credential(c.To)
	if err != nil {
		return f, err
	}
	found, err := k.roles(ctx, c, u.User, u.User)
	if err != nil {
		return f, err
	}
	for _, of := range found {
		if m, ok := readMark(of.Comment); ok && m.of(c.Key) {
			f.ServerVersion = max(f.ServerVersion, m.version)
		}
	}
	f.Notes = revived(c, found)
	at := home(c.Connection)
	at.database = u.Path()
	tried, err := k.try(ctx, c.Connection, at, u)
	if err != nil {
		return f, err
	}
	if !tried.valid {
		lost, err := tried.loss(c, found, u.User)
		if err != nil {
			return f, err
		}
		f.Problems = append(f.Problems, lost.problem(c, u.User, at.what))
		for _, role := range newer(c, found) {
			m, _ := readMark(found[role].Comment)
			f.Problems = append(f.Problems, kind.Problem{
				Ahead:  true,
				Text:   fmt.Sprintf("%s is ahead of Vault: role %s logs in with version %d, which Vault does not know. Was Vault restored from an older snapshot?", at.what, role, m.version),
				Remedy: "vault write -f hyvve/keys/" + c.Key.Name + "/reconcile makes the version valid that Vault has, and leaves the other one valid; then rotate the key",
			})
		}
		return f, nil
	}
	if a := judge(c, found, u.User, tried.acts); a.wrong {
		f.Problems = append(f.Problems, a.problem(c, found, c.To.Number, at.what))
	} else {
		f.Kept = login.Keep(acted{Login: u.User, Owner: a.is})
	}
	f.Notes = append(f.Notes, leftovers(c, found)...)
	for _, at := range replicas(c.Connection) {
		at.database = u.Path()
		switch valid, err := k.valid(ctx, c.Connection, at, u); {
		case err != nil:
			return f, err
		case !valid:
			f.Problems = append(f.Problems, kind.Problem{
				Text:   fmt.Sprintf("version %d logs in at the server and not at %s", c.To.Number, at.what),
				Remedy: "look whether the replica still follows the server, and whether its pg_hba.conf lets role " + u.User + " in",
			})
		}
	}
	return f, nil
}

// Restore implements kind.Restorer. It makes a role that has gone, lets one log in again that is locked, and lets one act as
// its owner again. It never replaces a password that somebody may use.
func (k *Kind) Restore(ctx context.Context, c kind.Change, dryRun bool) (done []string, err error) {
	u, err := urls.Credential(c.To)
	if err != nil {
		return nil, err
	}
	at := home(c.Connection)
	at.database = u.Path()
	tried, err := k.try(ctx, c.Connection, at, u)
	if err != nil {
		return nil, err
	}
	verifier, err := verifier(k.random, u.Password)
	if err != nil {
		return nil, err
	}
	err = k.transaction(ctx, c, u.User, lookUp(c, u.User, u.User), func(answer *pgconn.Result) (statements []string, err error) {
		found, version, err := readRoles(answer)
		if err != nil {
			return nil, err
		}
		c = withOwner(c, found, u.User)
		lost, err := tried.loss(c, found, u.User)
		if tried.valid {
			lost, err = strayed(c, found, u.User, tried.acts, at.what)
		}
		if err != nil || lost == lossNone {
			return nil, err
		}
		switch lost {
		case lossGone:
			if p := lost.problem(c, u.User, at.what); !p.Fixable {
				return nil, faultf("%s; %s", p.Text, p.Remedy)
			}
			done = []string{fmt.Sprintf("role %s made again at %s, with the password of version %d", u.User, at.what, c.To.Number)}
		case lossExpired, lossLimit:
			if p := lost.problem(c, u.User, at.what); !roleNames.Ours(c.Key, u.User) {
				return nil, faultf("%s; %s", p.Text, p.Remedy)
			}
			done = []string{fmt.Sprintf("role %s lets version %d log in again at %s", u.User, c.To.Number, at.what)}
		case lossLocked, lossByHand, lossBare:
			done = []string{fmt.Sprintf("role %s lets version %d log in again at %s", u.User, c.To.Number, at.what)}
		case lossOlder:
			if err := k.idle(ctx, c.Connection, u.User); err != nil {
				return nil, err
			}
			done = []string{fmt.Sprintf("role %s has the password of version %d again at %s", u.User, c.To.Number, at.what)}
		case lossRights:
			done = []string{fmt.Sprintf("role %s acts as %s again at %s", u.User, c.Key.Options[optionOwner], at.what)}
		case lossNone, lossNewer, lossChanged, lossForeign:
			p := lost.problem(c, u.User, at.what)
			return nil, faultf("%s; %s", p.Text, p.Remedy)
		}
		statements, err = k.restored(c, found, version, u, verifier)
		if err != nil || dryRun {
			return nil, err
		}
		comment := found[u.User].Comment
		if _, marked := readMark(comment); marked || comment == "" || roleNames.Ours(c.Key, u.User) { // an operator's comment stays
			statements = append(statements, markOf(c.Key, c.To).statement(u.User))
		}
		return statements, nil
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}

// restored returns the statements that give a role the password of the current version.
func (k *Kind) restored(c kind.Change, found map[string]known, version int, u dsn.URL, verifier string) ([]string, error) {
	if !roleNames.Ours(c.Key, u.User) {
		return []string{"ALTER ROLE " + quote(u.User) + " LOGIN PASSWORD " + literal(verifier)}, nil
	}
	o, err := findOwner(c, found, version, c.To)
	if err != nil {
		return nil, err
	}
	if err := o.safe(found[o.name], c.Connection); err != nil {
		return nil, err
	}
	return o.lend(found, u.User, verifier), nil
}

// idle returns an error while a role has sessions: they have logged in with a password that would be replaced.
func (k *Kind) idle(ctx context.Context, c kind.Connection, role string) error {
	for _, at := range append([]place{home(c)}, replicas(c)...) {
		switch found, _, err := k.sessions(ctx, c, at, role, 0); {
		case err != nil:
			return err
		case found.count() > 0:
			return faultf("role %s has an older password, which is in use at %s: %s; rotate the key: the next version has another role", role, at.what, found)
		}
	}
	return nil
}

// trial is what came of a login with the current version.
type trial struct {
	valid bool
	acts  string // as whom the session acts
	full  error  // the password is right, or was not looked at, and there is no connection left for the role
	bare  bool   // the role has no password, as far as the administrator may see it
}

// try logs in with a version.
func (k *Kind) try(ctx context.Context, c kind.Connection, at place, u dsn.URL) (t trial, err error) {
	t.acts, t.valid, err = k.actsAt(ctx, c, at, u)
	switch {
	case hasState(err, stateTooMany):
		t.full, err = err, nil
	case err == nil && !t.valid:
		t.bare, err = k.bare(ctx, c, u.User)
	}
	return t, err
}

// bare reports whether a role has no password. Superusers alone can see that; for others it is false.
func (k *Kind) bare(ctx context.Context, c kind.Connection, role string) (bare bool, err error) {
	err = k.admin(ctx, c, home(c), func(conn *pgx.Conn) error {
		var may bool
		if err := conn.QueryRow(ctx, "SELECT has_column_privilege('pg_catalog.pg_authid', 'rolpassword', 'SELECT')").Scan(&may); err != nil || !may {
			return err
		}
		return conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolpassword IS NULL)", role).Scan(&bare)
	})
	return bare, err
}

// loss says why a login did not come about. The error is for a role whose connections are all in use.
func (t trial) loss(c kind.Change, found map[string]known, role string) (loss, error) {
	of, there := found[role]
	lost := lossOf(c, found, role)
	switch {
	case t.full != nil && there && of.Connections == 0:
		return lossLimit, nil
	case t.full != nil && there && of.Connections > 0:
		return lossNone, faultf("%w; role %s has CONNECTION LIMIT %d: end sessions, or raise it: ALTER ROLE %s CONNECTION LIMIT -1", t.full, role, of.Connections, of.Quoted)
	case t.full != nil:
		return lossNone, t.full
	case lost == lossChanged && t.bare:
		return lossBare, nil
	}
	return lost, nil
}

// strayed reports whether a role that logs in acts as somebody else than its owner. The error is for what is not ours to mend.
func strayed(c kind.Change, found map[string]known, role, acts, at string) (loss, error) {
	a := judge(c, found, role, acts)
	if !a.wrong {
		return lossNone, nil
	}
	p := a.problem(c, found, c.To.Number, at)
	m, marked := readMark(found[role].Comment)
	if marked && !m.of(c.Key) {
		p = lossForeign.problem(c, role, at)
	}
	if _, there := found[a.want]; !there || !roleNames.Ours(c.Key, role) || marked && !m.of(c.Key) {
		return lossNone, faultf("%s; %s", p.Text, p.Remedy)
	}
	return lossRights, nil
}

// withOwner returns the change with the owner that its login role acts as, where the key does not name one: a role that has
// gone, or was changed by somebody, cannot tell.
func withOwner(c kind.Change, found map[string]known, user string) kind.Change {
	if c.Key.Options[optionOwner] != "" || !roleNames.Ours(c.Key, user) {
		return c
	}
	name := remembered(c, found, user)
	if acts := actsAs(found, user); name == "" && !roleNames.Ours(c.Key, acts) {
		name = acts
	}
	c.Key.Options = maps.Clone(c.Key.Options)
	if c.Key.Options == nil {
		c.Key.Options = kind.Options{}
	}
	c.Key.Options[optionOwner] = name
	return c
}

// imported returns the roles, other than login roles of the key, with which versions logged in that are retired, and the
// number of the last such version of each.
func imported(k key.Key) (roles []string, numbers map[string]int) {
	numbers = map[string]int{}
	for _, v := range k.Versions {
		if v.Login == "" || roleNames.Ours(k, v.Login) {
			continue
		}
		if !slices.Contains(roles, v.Login) {
			roles = append(roles, v.Login)
		}
		numbers[v.Login] = v.Number
	}
	return roles, numbers
}

// revived says which roles log in although Vault has ended their versions, as after a restore of the server: a client that had such
// a version is let in again. It says nothing of the role of To.
func revived(c kind.Change, found map[string]known) (texts []string) {
	say := func(role string, number int) {
		if role != userOf(c) && found[role].Login {
			texts = append(texts, fmt.Sprintf("role %s can log in, and version %d, which had it, is retired: was the server restored from a dump? If nobody should use the role: ALTER ROLE %s NOLOGIN", role, number, found[role].Quoted))
		}
	}
	for _, role := range roleNames.Of(c.Key) {
		if m, marked := readMark(found[role].Comment); marked && m.of(c.Key) && !m.unknown(c) && !login.Live(c, m.version) {
			say(role, m.version)
		}
	}
	roles, numbers := imported(c.Key)
	for _, role := range roles {
		// An owner may have been let in again by somebody on purpose, who says so by a comment of their own.
		m, marked := readMark(found[role].Comment)
		if (found[role].Comment == "" || marked && m.of(c.Key)) && !login.Live(c, numbers[role]) {
			say(role, numbers[role])
		}
	}
	return texts
}
