// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"context"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Undeleter is the capability of a Server to let a version log in again that it has retired.
type Undeleter interface {
	Server
	// CheckUndelete refuses what Undelete, or Retire after it, could never do, without asking a server: To has the login of
	// From, the current version, or of the administrator. The engine calls it before it stores anything. The error names the
	// remedy and holds no value.
	CheckUndelete(c Change) error
	// Undelete makes To, a retired version, valid again beside From, the current one. It takes no login away, and leaves one
	// as it is that another version has, or somebody else. It is idempotent. Retire ends To again, as From of a Change whose
	// To is the current version.
	Undelete(ctx context.Context, c Change) error
}

// Occupied is the error of a login that a new version needs, and that an undeleted version has. The engine knows that by
// itself, and starts no such rotation: Preflight does not say it once more.
type Occupied struct {
	Key     string
	Login   string
	Version int
}

func (o Occupied) Error() string {
	return fmt.Sprintf("%s is the login of version %d, which is undeleted. Nothing was changed. End that first: vault write hyvve/keys/%s/retire version=%d", o.Login, o.Version, o.Key, o.Version)
}

// HasLoginOfCurrent is the error of a version that cannot be undeleted since the current version has its login, which has one
// password. A rotation gives the current version another login.
func HasLoginOfCurrent(c Change, login string) error {
	return fmt.Errorf("version %d logs in as %s, as version %d does, which is the current one; give its client the current value; or rotate the key, and undelete version %d then, while it is retained: vault write hyvve/rotate key=%s", c.To.Number, login, c.From.Number, c.To.Number, c.Key.Name)
}

// OccupiedBy returns an error where a version of a key is undeleted, so that its login is not free.
func OccupiedBy(k key.Key, version int, login string) error {
	if v, ok := k.Version(version); ok && v.State == key.Undeleted {
		return Occupied{k.Name, login, version}
	}
	return nil
}
