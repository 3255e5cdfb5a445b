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

// OccupiedBy returns an error where a version of a key is undeleted, so that its login is not free.
func OccupiedBy(k key.Key, version int, login string) error {
	if v, ok := k.Version(version); ok && v.State == key.Undeleted {
		return Occupied{k.Name, login, version}
	}
	return nil
}
