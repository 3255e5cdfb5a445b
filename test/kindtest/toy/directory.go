// SPDX-License-Identifier: Apache-2.0

package toy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Directory is a server in memory: users, their passwords and their sessions. Each request takes the time of two trips
// and can be cut short in both, before its effect and after it.
type Directory struct {
	trip time.Duration

	mu       sync.Mutex
	admin    string // the administrator's password
	users    map[string]string
	owners   map[string]string // of users that a key has made: whose they are
	sessions map[*Login]bool
	note     string // what every user says of itself
	down     bool
	frozen   chan struct{} // nil, or closed when requests go on
}

// NewDirectory starts a server with an administrator.
func NewDirectory(password string, trip time.Duration) *Directory {
	return &Directory{trip: trip, admin: password, users: map[string]string{}, owners: map[string]string{}, sessions: map[*Login]bool{}}
}

// SetDown lets the server go away, which ends all sessions, or come back.
func (d *Directory) SetDown(down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = down
	if down {
		clear(d.sessions)
	}
}

// Freeze makes requests wait until thaw.
func (d *Directory) Freeze() (thaw func()) {
	frozen := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.frozen = frozen
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.frozen = nil
		close(frozen)
	}
}

// Hostile has every user say of itself what makes another one, if somebody carries it out; ran reports whether that was done.
func (d *Directory) Hostile() (ran func() []string) {
	const name = "made-by-a-note"
	d.mu.Lock()
	defer d.mu.Unlock()
	d.note = "set " + name + " x"
	return func() []string {
		if slices.Contains(d.Users(), name) {
			return []string{"a note has made user " + name}
		}
		return nil
	}
}

// Users are the names that can log in.
func (d *Directory) Users() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.users))
}

// Valid reports whether a login is right.
func (d *Directory) Valid(user, password string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	known, ok := d.users[user]
	return ok && known == password
}

// Own makes a user that owner's.
func (d *Directory) Own(owner, user string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.owners[user] = owner
}

// Add returns a user, as somebody has done before there was a rotation.
func (d *Directory) Add(user, password string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users[user] = password
}

// request does something at the server, with a trip before and one after.
func (d *Directory) request(ctx context.Context, do func() error) error {
	if err := d.travel(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	err := errors.New("the directory is down")
	if !d.down {
		err = do()
	}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return d.travel(ctx)
}

func (d *Directory) travel(ctx context.Context) error {
	d.mu.Lock()
	frozen := d.frozen
	d.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case <-time.After(d.trip):
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Login is a session of a user.
type Login struct {
	directory *Directory
	user      string
}

// Login opens a session.
func (d *Directory) Login(ctx context.Context, user, password string) (*Login, error) {
	l := &Login{d, user}
	err := d.request(ctx, func() error {
		if known, ok := d.users[user]; !ok || known != password {
			return errors.New("the directory refuses the login")
		}
		d.sessions[l] = true
		return nil
	})
	if err != nil {
		l.End()
		return nil, err
	}
	return l, nil
}

// End closes the session.
func (l *Login) End() {
	l.directory.mu.Lock()
	defer l.directory.mu.Unlock()
	delete(l.directory.sessions, l)
}

// Alive reports whether the server serves the session.
func (l *Login) Alive() bool {
	l.directory.mu.Lock()
	defer l.directory.mu.Unlock()
	return l.directory.sessions[l]
}

// Administrator is a session that may change users.
type Administrator struct{ directory *Directory }

// Administrator logs in with the first of the passwords that is right.
func (d *Directory) Administrator(ctx context.Context, passwords []key.Value) (*Administrator, error) {
	err := d.request(ctx, func() error {
		for _, p := range passwords {
			if p.Equal(key.NewValue(d.admin)) {
				return nil
			}
		}
		return errors.New("the directory refuses the administrator's password")
	})
	return &Administrator{d}, err
}

// Set sets a user's password, and makes the user if there is none.
func (a *Administrator) Set(ctx context.Context, user, password string) error {
	return a.directory.request(ctx, func() error {
		a.directory.users[user] = password
		return nil
	})
}

// Foreign is the error of what concerns a user that somebody else has made.
type Foreign struct{ User, Owner string }

func (f Foreign) Error() string {
	return fmt.Sprintf("user %s was not made by %s; give the key another user=", f.User, f.Owner)
}

// foreign is why an owner may not have a user. Only what request calls may call it.
func (d *Directory) foreign(owner, user string) error {
	if _, there := d.users[user]; there && d.owners[user] != owner {
		return Foreign{user, owner}
	}
	return nil
}

// MayClaim returns what Claim would refuse.
func (a *Administrator) MayClaim(ctx context.Context, owner, user string) error {
	return a.directory.request(ctx, func() error { return a.directory.foreign(owner, user) })
}

// Claim is Set for an owner, who has to have made the user if there is one.
func (a *Administrator) Claim(ctx context.Context, owner, user, password string) error {
	return a.directory.request(ctx, func() error {
		if err := a.directory.foreign(owner, user); err != nil {
			return err
		}
		a.directory.users[user], a.directory.owners[user] = password, owner
		return nil
	})
}

// Release removes a user if it is that owner's; sessions stay.
func (a *Administrator) Release(ctx context.Context, owner, user string) error {
	return a.directory.request(ctx, func() error {
		if a.directory.owners[user] == owner {
			delete(a.directory.users, user)
			delete(a.directory.owners, user)
		}
		return nil
	})
}

// Retire removes a user, if there is one, unless another owner has made it; sessions stay. An operator has made one without an owner.
func (a *Administrator) Retire(ctx context.Context, owner, user string) error {
	return a.directory.request(ctx, func() error {
		if by, owned := a.directory.owners[user]; owned && by != owner {
			return Foreign{user, owner}
		}
		delete(a.directory.users, user)
		delete(a.directory.owners, user)
		return nil
	})
}

// Drop removes a user, no matter who has made it; sessions stay.
func (a *Administrator) Drop(ctx context.Context, user string) error {
	return a.directory.request(ctx, func() error {
		delete(a.directory.users, user)
		delete(a.directory.owners, user)
		return nil
	})
}

// Note is what a user says of itself.
func (a *Administrator) Note(ctx context.Context, user string) (note string, err error) {
	err = a.directory.request(ctx, func() error {
		note = a.directory.note
		return nil
	})
	return note, err
}

// Sessions counts those of a user.
func (a *Administrator) Sessions(ctx context.Context, user string) (count int, err error) {
	err = a.directory.request(ctx, func() error {
		for l := range a.directory.sessions {
			if l.user == user {
				count++
			}
		}
		return nil
	})
	return count, err
}

// End closes the sessions of a user.
func (a *Administrator) End(ctx context.Context, user string) error {
	return a.directory.request(ctx, func() error {
		maps.DeleteFunc(a.directory.sessions, func(l *Login, _ bool) bool { return l.user == user })
		return nil
	})
}

// SetOwnPassword changes the administrator's password.
func (a *Administrator) SetOwnPassword(ctx context.Context, password string) error {
	return a.directory.request(ctx, func() error {
		a.directory.admin = password
		return nil
	})
}
