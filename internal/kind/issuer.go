// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"context"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Issuer is the capability of a Server that makes the values itself, and shows each of them once: in the answer to the request
// that made it. Generate, if the kind is a Generator, returns an order: a text that stands in the version in place of a value
// until the server has made one. No workload is given an order.
//
// A crash, or a lost answer, may leave a value at the server that nobody knows. So each request is an attempt with a name of its
// own, stored before the server hears of it:
//
//  1. The engine stores the order that Attempt returns.
//  2. It calls Issue, which asks the server once, under the name of that attempt.
//  3. It stores what Issue returns. From here on the version has its value.
//  4. It calls Stage, which revokes what other attempts have made, and then Verify.
//
// Unstage and Retire revoke what any attempt at their version has made.
type Issuer interface {
	Server
	// Attempt returns the order of the next attempt; false where v is no order but a value.
	Attempt(v key.Value) (key.Value, bool)
	// Issue has the server make a value for the order in To. It revokes what earlier attempts have made, and never what this or a
	// later one has: a process that has lost its place may still be at it.
	Issue(ctx context.Context, c Change) (Issued, error)
}

// Issued is a value that a server has made.
type Issued struct {
	Value  key.Value
	Handle string // see key.Version
}

// Sessionless is the capability of a Server whose values are used in requests that are over at once and that nobody counts.
// The engine does not ask it InUse: evidence of non-use are the workloads' own reports, as for kinds without a server.
type Sessionless interface {
	Server
	Sessionless()
}

// RootRotator is the capability of a Connector whose server lets an administrator choose another password for himself.
type RootRotator interface {
	Connector
	// RotateRoot makes c.Next the administrator's password. It is idempotent: either of c.Passwords may be in force, and
	// the present one is invalid only after Next has logged in, as far as the server lets that be.
	RotateRoot(ctx context.Context, c Connection) error
}
