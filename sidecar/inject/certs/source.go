// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/tls"
	"time"
)

// Source has a serving certificate that changes while it is used.
type Source interface {
	Run(ctx context.Context) error   // follows what there is to follow, until ctx ends
	Config() *tls.Config             // of the server
	Ready(now time.Time) error       // why the API servers would not take the certificate now
	Status(now time.Time) Status     // for metrics
	Leave(ctx context.Context) error // to be called when nothing is served any more
}

var (
	_ Source = (*Files)(nil)
	_ Source = (*Managed)(nil)
)

// Status is how it stands. What is zero is not known, or not there.
type Status struct {
	Leading     bool
	Generation  int       // of the newest authority
	Authorities int       // that caBundle should hold
	Expires     time.Time // the certificate that is presented
	CAExpires   time.Time // the newest authority
}
