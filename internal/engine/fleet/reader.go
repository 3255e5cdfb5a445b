// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Reader is who reads a bundle.
type Reader struct {
	Workload string
	Instance string // empty: one without a name

	Token     Token     // that it reads with
	Secret    key.Value // of its newest read, where it has it: another token may read with it
	Heartbeat bool      // it sends signs of life every few seconds from now on
	Pod, Node string    // of Kubernetes, as it says

	// Multiline says that the reader can carry values of several lines, but for those named OneLine.
	Multiline bool
	OneLine   []string // environment names
}

// Token is what Vault says of the token of a request. Neither ID nor accessor is kept; a keyed fingerprint is.
type Token struct {
	ID       string // as a plugin sees it: salted by Vault for the mount
	Accessor string // empty of a batch token
	Entity   string
	Name     string // to display
}

// Bounds of what a reader may have us store.
const (
	maxOneLine = 200
	maxEnv     = 256 // bytes
	maxName    = 100 // bytes
)

// anonymous begins the ids of readers without a name.
const anonymous = "lease-"

// Check refuses a reader that says what nobody can be.
func (r Reader) Check() error {
	if r.Instance != "" {
		if err := checkInstance(r.Instance); err != nil {
			return err
		}
	}
	for _, says := range []struct{ field, name string }{{"pod", r.Pod}, {"node", r.Node}} {
		if err := key.ValidateDNSName(says.name); says.name != "" && err != nil {
			return rotation.Refusef("%s: %w; leave it out where it is not known", says.field, err)
		}
	}
	if len(r.OneLine) > maxOneLine {
		return rotation.Refusef("one_line names %d keys, of at most %d; leave it out if no value may have several lines", len(r.OneLine), maxOneLine)
	}
	for _, env := range r.OneLine {
		if len(env) > maxEnv {
			return rotation.Refusef("one_line: a name has %d bytes, of at most %d; name the environment names of keys", len(env), maxEnv)
		}
		if err := key.ValidateEnv(env); err != nil {
			return rotation.Refusef("one_line: %w", err)
		}
	}
	return nil
}

func checkInstance(id string) error {
	if err := key.ValidateInstance(id); err != nil {
		return rotation.Refusef("%v", err)
	}
	if strings.HasPrefix(id, anonymous) {
		return rotation.Refusef("instance %q begins with %q, which stands for readers without a name; use another one", id, anonymous)
	}
	return nil
}

// As returns the reader as an instance. Without a name, it has one of this read.
func (r Reader) As(s Secrets, read Read) workload.Instance {
	i := workload.Instance{
		Workload: r.Workload, ID: r.Instance, Multiline: r.Multiline, OneLine: r.OneLine,
		Login: s.Login(r.Token), Heartbeat: r.Heartbeat && r.Instance != "",
		Pod: r.Pod, Node: r.Node,
	}
	if i.ID == "" {
		i.ID, i.Anonymous = anonymous+read.String(), true
	}
	return i
}

// Says returns an instance with what its reader says of itself now, and whether that is what it said before.
func Says(old, now workload.Instance) (i workload.Instance, same bool) {
	i = old
	i.Multiline, i.OneLine, i.Login, i.Heartbeat = now.Multiline, now.OneLine, now.Login, now.Heartbeat
	i.Pod, i.Node = now.Pod, now.Node
	if !old.Login.Same(now.Login) {
		i.LoggedIn = time.Time{}
	}
	return i, old.Multiline == i.Multiline && slices.Equal(old.OneLine, i.OneLine) && old.Login == i.Login && old.Heartbeat == i.Heartbeat &&
		old.Pod == i.Pod && old.Node == i.Node
}

// Secrets derives from the mount's secret what stands for logins, and what proves reads.
type Secrets struct{ key.Fingerprinter }

// loginDigits is the length of a login's fingerprint: 128 bits.
const loginDigits = 32

// Login returns whose token it is.
func (s Secrets) Login(t Token) workload.Login {
	l := workload.Login{Entity: kind.CutText(t.Entity, maxName), Name: kind.Line(t.Name, maxName)}
	switch {
	case t.Accessor != "":
		l.Accessor = s.Sum("login", "accessor", t.Accessor)[:loginDigits]
	case t.ID != "":
		l.Accessor = s.Sum("login", "token", t.ID)[:loginDigits]
	}
	return l
}

// Secret is that of a read: its owner was given its answer. It need not be stored.
func (s Secrets) Secret(name string, r Read) key.Value {
	return key.NewValue(r.String() + "." + s.Sum("instance-secret", name, r.String()))
}

// Read tells reads apart, and which of two is the newer: the generation of the mount that answered it, and its number in
// that. No clock has a part in it.
type Read struct{ Generation, Number uint64 }

// String returns the read as instances and leases carry it.
func (r Read) String() string { return fmt.Sprintf("%x-%x", r.Generation, r.Number) }

func (r Read) after(o Read) bool {
	return r.Generation > o.Generation || r.Generation == o.Generation && r.Number > o.Number
}

// ReadOf is the read that a secret says it is of.
func ReadOf(secret key.Value) Read {
	read, _, _ := strings.Cut(secret.Reveal(), ".")
	return parseRead(read)
}

// parseRead reads a [Read]; those of records of schema 1 are older than all others.
func parseRead(text string) (r Read) {
	if _, err := fmt.Sscanf(text, "%x-%x", &r.Generation, &r.Number); err != nil || r.String() != text {
		return Read{}
	}
	return r
}
