// SPDX-License-Identifier: Apache-2.0

package kind

import "context"

// Undeleter is the capability of a Server to let a version log in again that it has retired.
type Undeleter interface {
	Server
	// Undelete makes To, a retired version, valid again beside From, the current one. It takes no login away, and leaves one
	// as it is that another version has, or somebody else. It is idempotent. Retire ends To again, as From of a Change whose
	// To is the current version.
	Undelete(ctx context.Context, c Change) error
}
