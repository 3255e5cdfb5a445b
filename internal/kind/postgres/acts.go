// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgrows"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// acted is whom sessions of a login acted as when it was looked at last and all was well. It is what Finding.Kept holds.
type acted struct {
	Login string `json:"login"` // empty: a release before wrote the owner alone
	Owner string `json:"owner"`
}

func readActed(kept string) acted {
	var a acted
	if json.Unmarshal([]byte(kept), &a) != nil || a.Login == "" || a.Owner == "" {
		return acted{Owner: kept}
	}
	return a
}

// acting is whom the sessions of a login act as, and whom they should.
type acting struct {
	role     string
	is       string
	want     string // empty: not known
	database string // where it acts as somebody else; empty: wherever it logs in
	wrong    bool
}

// judge compares whom the sessions of a login act as with whom they should act as. said is what a session has said; empty:
// none was asked, and the role's settings tell. A login role of the key never acts as itself. A role of an operator's acts
// as he has set it, as long as it may.
func judge(c kind.Change, found map[string]known, login, said string) acting {
	of := found[login]
	a := acting{role: login, is: actsAs(found, login)}
	if !roleNames.Ours(c.Key, login) {
		a.want = cmp.Or(of.roleIn(""), login)
		a.wrong = a.want != a.is
		return a
	}
	chosen, before := c.Key.Options[optionOwner], remembered(c, found, login)
	right := func(name string) bool {
		return !roleNames.Ours(c.Key, name) && (name == chosen || name == before || before == "")
	}
	a.want, a.wrong = cmp.Or(chosen, before), !right(a.is)
	for _, s := range of.settings() {
		if s.name == "role" && s.database != "" && s.value != a.is && !a.wrong {
			a.is, a.database, a.wrong = s.value, s.database, true
		}
	}
	switch {
	case a.wrong:
	case said != "" && !right(said):
		a.is, a.wrong = said, true
	default:
		a.want = a.is
	}
	return a
}

// roleIn returns the role that a role's own setting names, in a database or, with none, in all; "" if there is none.
func (k known) roleIn(database string) (name string) {
	for _, s := range k.settings() {
		if s.name == "role" && s.database == database && s.value != "none" {
			name = s.value
		}
	}
	return name
}

// actsAs returns whom the sessions of a role act as by its settings. The server lets it log in where it may not act as that
// role, with a warning: then it acts as itself.
func actsAs(found map[string]known, login string) string {
	if name := found[login].roleIn(""); name != "" && found[login].May {
		return name
	}
	return login
}

// remembered returns whom the sessions of a login role of the key should act as, by all that tells it but the role's own
// settings: what was kept when it was well, or else the login of the version before, from which it was lent.
func remembered(c kind.Change, found map[string]known, login string) string {
	kept := readActed(c.Kept)
	if kept.Login == login || kept.Login == "" && kept.Owner != "" {
		return kept.Owner
	}
	for _, name := range predecessors(c.Key, login) {
		if name == kept.Login {
			return kept.Owner
		}
		of, there := found[name]
		m, marked := readMark(of.Comment)
		if !there || roleNames.Ours(c.Key, name) && (!marked || !m.of(c.Key)) {
			continue
		}
		if owner := actsAs(found, name); !roleNames.Ours(c.Key, owner) {
			return owner
		}
	}
	return ""
}

// predecessors returns the other logins of a key, those of the latest versions first.
func predecessors(k key.Key, login string) []string {
	var names []string
	add := func(name string) {
		if name != "" && name != login && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range versionLogins(k) {
		add(name)
	}
	for _, name := range roleNames.Of(k) {
		add(name)
	}
	return names
}

// versionLogins returns the logins of a key's versions, the latest first.
func versionLogins(k key.Key) (names []string) {
	for _, v := range slices.Backward(k.Versions) {
		name := v.Login
		if u, err := urls.Credential(v); name == "" && err == nil {
			name = u.User
		}
		if name != "" && v.State != key.Staged && v.State != key.Aborted {
			names = append(names, name)
		}
	}
	return names
}

// problem says in words what is wrong, and what helps. The server tells nobody: sessions log in with a warning.
func (a acting) problem(c kind.Change, found map[string]known, version int, at string) kind.Problem {
	k := c.Key.Name
	is := a.is
	if a.is == a.role {
		is = "itself"
	}
	if a.database != "" {
		is += " in database " + a.database
	}
	p := kind.Problem{Text: fmt.Sprintf("role %s, with which version %d logs in, acts as %s at %s, and not as its owner %s: its sessions have other rights, and what they create is not the owner's", a.role, version, is, at, a.want)}
	reconcile := fmt.Sprintf("vault write -f hyvve/keys/%s/reconcile", k)
	_, there := found[a.want]
	var ways []string
	switch {
	case !roleNames.Ours(c.Key, a.role):
		why := "may not act as that role"
		ways = append(ways, fmt.Sprintf("take the setting away (ALTER ROLE %s RESET role), or let the login act so (GRANT %s TO %[1]s); or name the owner of the next login roles in owner= of hyvve/keys/%[3]s", quoteIfNeeded(a.role), quoteIfNeeded(a.want), k))
		if !there {
			why = "there is no such role"
			ways = []string{fmt.Sprintf("take the setting away (ALTER ROLE %s RESET role), or set the role that is there; or name the owner of the next login roles in owner= of hyvve/keys/%s", quoteIfNeeded(a.role), k)}
		}
		p.Text = fmt.Sprintf("role %s, with which version %d logs in, has the setting role = %q at %s, and %s: its sessions act as %s", a.role, version, a.want, at, why, is)
	case a.want == "":
		p.Text = fmt.Sprintf("role %s, with which version %d logs in, acts as %s at %s, and whom it should act as is not known", a.role, version, is, at)
		ways = append(ways, fmt.Sprintf("name that role: vault write hyvve/keys/%s owner=NAME; then %s", k, reconcile))
	case !there:
		ways = append(ways, missingOwner(c, found, a.role, a.want)+"; then "+reconcile)
	default:
		ways = append(ways, fmt.Sprintf("if it should act as %s, %s", a.want, reconcile))
		if a.is != a.role && a.database == "" {
			ways = append(ways, fmt.Sprintf("if it should act as %s, vault write hyvve/keys/%s owner=%s", a.is, k, kind.ShellQuote(a.is)))
		}
	}
	p.Remedy = strings.Join(ways, "; ")
	return p
}

// missingOwner says what to do where the owner of a login role is not at the server. The login role is still a member of an
// owner that was renamed.
func missingOwner(c kind.Change, found map[string]known, login, owner string) string {
	k := c.Key.Name
	acts := slices.DeleteFunc(slices.Clone(found[login].Acts), func(name string) bool { return roleNames.Ours(c.Key, name) })
	if len(acts) > 0 {
		slices.Sort(acts)
		return fmt.Sprintf("owner role %q does not exist at the server, and %s is a member of %s. If the owner was renamed so, vault write hyvve/keys/%s owner=%s", owner, login, strings.Join(slices.Compact(acts), " and "), k, kind.ShellQuote(acts[0]))
	}
	return fmt.Sprintf("owner role %q does not exist at the server. Make it again, with its tables, or name the role that takes its place: vault write hyvve/keys/%s owner=NAME", owner, k)
}

var _ kind.Undeleter = (*Kind)(nil)

// CheckUndelete implements kind.Undeleter.
func (*Kind) CheckUndelete(c kind.Change) error {
	from, to, err := urls.Both(c)
	if err != nil {
		return err
	}
	admin, err := parseAdmin(c.Connection)
	switch {
	case from.User == to.User:
		return kind.HasLoginOfCurrent(c, "role "+to.User)
	case err != nil:
		return fmt.Errorf("connection %s: url: %w", c.Connection.Name, err)
	case admin.User == to.User:
		return fmt.Errorf("connection %s logs in as %s, the role of version %d; give the connection an administrator of its own", c.Connection.Name, to.User, c.To.Number)
	}
	return nil
}

// Undelete implements kind.Undeleter. The role of a retired version is still there, locked: it is given its password again,
// as Restore does for the current version's.
func (k *Kind) Undelete(ctx context.Context, c kind.Change) error {
	if err := k.CheckUndelete(c); err != nil {
		return err
	}
	_, err := k.Restore(ctx, c, false)
	return err
}

var _ kind.RowLooker = (*Kind)(nil)

// LookAtRows opens the rows of columns in the database of the connection's URL, as its administrator.
func (k *Kind) LookAtRows(ctx context.Context, c kind.Connection, look kind.RowLook) (report workload.WorkReport, err error) {
	others := make([]pgrows.Other, 0, len(look.Others))
	for _, o := range look.Others {
		others = append(others, pgrows.Other(o))
	}
	err = k.admin(ctx, c, home(c), func(conn *pgx.Conn) error {
		report, err = pgrows.Check(ctx, conn, look.Columns, look.Value, others, look.Most)
		return err
	})
	return report, err
}

// use is the sessions of a role.
type use []seen

// seen is a session that was seen.
type seen struct {
	pid        int
	clientPort int // -1: the client came through a socket
	serverPort int // as the server names it
	words      string
}

func (u use) count() int { return len(u) }

func (u use) String() string {
	var words []string
	for _, s := range u[:min(len(u), login.FewSessions)] {
		words = append(words, s.words)
	}
	if more := len(u) - len(words); more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, " | ")
}

// census reads the sessions of a place for all callers. A query takes the server as long for many roles as for one, so
// callers that ask while one is in progress share the next: every result was read after its caller asked.
type census struct {
	mu      sync.Mutex
	next    *look // that those who ask now share; nil: nobody has asked yet
	running bool

	samples sampler // of the same place
}

// looking returns the sessions of roles.
type looking func(ctx context.Context, roles []string) (map[string]use, error)

// look is one look at the sessions of several roles.
type look struct {
	at     looking // of who asked first
	roles  []string
	askers int                // that still wait
	ctx    context.Context    // ends when nobody waits any more
	cancel context.CancelFunc // of ctx

	done  chan struct{} // closed when what follows is set
	found map[string]use
	err   error
}

// ask returns the sessions of a role, by way of a look that begins from now on.
func (c *census) ask(ctx context.Context, role string, at looking) (use, error) {
	c.mu.Lock()
	l := c.next
	if l == nil {
		l = &look{at: at, done: make(chan struct{})}
		l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
		c.next = l
	}
	l.roles = append(l.roles, role)
	l.askers++
	if !c.running {
		c.running = true
		go c.run()
	}
	c.mu.Unlock()
	select {
	case <-l.done:
		return l.found[role], l.err
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		if l.askers--; l.askers == 0 {
			l.cancel()
			if c.next == l {
				c.next = nil
			}
		}
		return nil, ctx.Err()
	}
}

// run looks until nobody asks.
func (c *census) run() {
	for {
		c.mu.Lock()
		l := c.next
		c.next, c.running = nil, l != nil
		c.mu.Unlock()
		if l == nil {
			return
		}
		l.found, l.err = l.at(l.ctx, l.roles)
		l.cancel()
		close(l.done)
	}
}

// sessions returns those of a role at a place: of this moment, or seen within d. Then it also returns how many logins to each
// database were not seen.
func (k *Kind) sessions(ctx context.Context, c kind.Connection, at place, role string, d time.Duration) (found use, missed misses, err error) {
	if d == 0 {
		found, err = k.census(c, at).ask(ctx, role, func(ctx context.Context, roles []string) (map[string]use, error) {
			return k.lookAt(ctx, c, at, roles)
		})
	} else {
		found, missed, err = k.sampler(c, at).ask(ctx, role, d, func(roles []string, long time.Duration, logins *shortLogins) (map[string]use, misses, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), long+patience)
			defer cancel()
			return k.sampleAt(ctx, c, at, roles, long, logins)
		})
	}
	return found, missed, plain(err, at)
}

func (k *Kind) census(c kind.Connection, at place) *census {
	k.mu.Lock()
	defer k.mu.Unlock()
	revision := fmt.Sprintf("%s/%d/", c.Name, c.Revision)
	name := revision + at.host
	if of, ok := k.looks[name]; ok {
		return of
	}
	maps.DeleteFunc(k.looks, func(other string, _ *census) bool { // of an earlier revision
		return strings.HasPrefix(other, c.Name+"/") && !strings.HasPrefix(other, revision)
	})
	k.looks[name] = &census{}
	return k.looks[name]
}

// lookAt returns the sessions of roles at a place.
func (k *Kind) lookAt(ctx context.Context, c kind.Connection, at place, roles []string) (map[string]use, error) {
	var found map[string]use
	err := k.admin(ctx, c, at, func(conn *pgx.Conn) error {
		var err error
		found, _, err = readUses(conn.Query(ctx, repeated(roles, 1, 0, time.Minute, nil)))
		return err
	})
	return found, err
}

func inWords(pid int, age *float64, parts ...string) string {
	word := fmt.Sprintf("pid %d", pid)
	for _, part := range parts {
		if part != "" {
			word += " " + kind.Line(part, login.MaxSessionWord)
		}
	}
	if age != nil {
		word += fmt.Sprintf(", open for %s", duration.Text((time.Duration(max(*age, 0)) * time.Second).Round(time.Second)))
	}
	return word
}
