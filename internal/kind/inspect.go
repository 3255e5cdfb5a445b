// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"context"
	"time"
)

// Finding is what an inspection of a key's current version has found at its server.
type Finding struct {
	Problems []Problem

	// Notes are what an operator should know although the version is valid, such as a password beside it that Vault does
	// not know. None holds a secret.
	Notes []string

	// ServerVersion is the highest version of the key that marks at the server name; 0 if none does. If it is higher than
	// every version that Vault knows, Vault has been restored from a snapshot. New versions need higher numbers.
	ServerVersion int

	// Kept is what Restore will need and only a healthy server knows, such as the rights of the current login. It holds no
	// secret. If it is not empty, the engine stores it with the key, in place of what it stored before, and passes it to
	// Restore as Change.Kept.
	Kept string
}

// Problem is one thing that is wrong at a server.
type Problem struct {
	Text    string // names the server and the login
	Remedy  string // what an operator can do, as a command if there is one
	Fixable bool   // Restore can mend it, and mending it hurts nobody: it needs no decision of an operator
	Ahead   bool   // the server knows a newer version than Vault
	Rotates bool   // a rotation goes through all the same: it is no blocker of one
}

// String returns the problem with its remedy.
func (p Problem) String() string {
	if p.Remedy == "" {
		return p.Text
	}
	return p.Text + "; " + p.Remedy
}

// Inspector is the optional capability of a kind to look whether a key's current version is still valid at its server.
type Inspector interface {
	// Inspect looks at To, the current version. From is the version before it if that is still valid, and else empty. It
	// changes nothing and costs the server little. The error is for what could not be looked at, such as a server that
	// does not answer. No text holds a secret.
	Inspect(ctx context.Context, c Change) (Finding, error)
}

// Restorer is the optional capability of an Inspector to mend what it has found.
type Restorer interface {
	Inspector
	// Restore makes To, the current version, valid again at every server. It takes no login away from anybody without saying so in what it has done: a password
	// that Vault does not know stays beside Vault's. The engine calls it by itself only if all problems are Fixable, and
	// otherwise if an operator asks for it. It returns what it has done or, with dryRun, would do. It is idempotent.
	// The error says what could not be mended, and which option of the key would help.
	Restore(ctx context.Context, c Change, dryRun bool) (done []string, err error)
}

// RefusalReporter is the optional capability of a server's kind to tell who still tries a version that is retired.
type RefusalReporter interface {
	// Refusals counts logins that the server has refused within that time, as far back as it remembers, and says who tried.
	// login is what LoginNamer has said of the retired version, whose value is gone; To is the current one. It may find
	// nothing although somebody tried: servers forget, and some do not tell.
	Refusals(ctx context.Context, c Change, login string, within time.Duration) (count int, what string, err error)
}
