// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// leases are those of a namespace.
type leases interface {
	Get(ctx context.Context, name string) (*coordinationv1.Lease, error)
	Create(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error)
	Update(ctx context.Context, name string, lease *coordinationv1.Lease) (*coordinationv1.Lease, error)
}

// election elects one replica by a Lease, as components of Kubernetes do. The package of client-go for it links every client and
// informer that there is. The leader renews the Lease. Once the Lease has not changed for its duration, as measured by another
// replica since it saw the Lease, that replica takes it. The leader gives up earlier than that: two thirds of the duration after the
// last renewal began. So no two replicas lead at the same time, unless a clock runs slower by a third.
type election struct {
	leases    leases
	namespace string
	lease     string
	replica   string
	duration  time.Duration
	log       *slog.Logger

	version string    // of the Lease that was seen last
	since   time.Time // when it was seen first
}

// run takes part in the election until ctx ends, and resigns then. It calls set with each change.
func (e *election) run(ctx context.Context, set func(leading bool)) {
	leading, until := false, time.Time{} // until when it leads if no renewal succeeds
	for ctx.Err() == nil {
		renewed := time.Now().Add(e.duration * 2 / 3)
		if !leading {
			until = renewed
		}
		trying, stop := context.WithDeadline(ctx, until)
		holds, err := e.attempt(trying)
		stop()
		if err != nil && ctx.Err() == nil {
			level := slog.LevelWarn
			if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
				level = slog.LevelDebug // another replica was faster
			}
			e.log.Log(ctx, level, "the Lease was not read or written; it is tried again", "lease", e.lease, "error", err)
		}
		if holds {
			until = renewed
		}
		if leads := (holds || leading && err != nil) && time.Now().Before(until); leads != leading {
			leading = leads
			set(leading)
		}
		wait := e.duration/6 + rand.N(e.duration/6) //nolint:gosec // so that not all replicas ask at once
		if leading {
			wait = min(e.duration/6, time.Until(until))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	if leading {
		set(false)
		e.resign(ctx)
	}
}

// resign lets another replica take the Lease at once.
func (e *election) resign(ctx context.Context) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), e.duration*2/3)
	defer stop()
	for {
		lease, err := e.leases.Get(ctx, e.lease)
		if err != nil || holder(lease) != e.replica {
			return
		}
		lease.Spec.HolderIdentity = nil
		if _, err := e.leases.Update(ctx, e.lease, lease); !apierrors.IsConflict(err) {
			return
		}
	}
}

// holder returns the replica that a Lease names; empty: none.
func holder(lease *coordinationv1.Lease) string {
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// attempt takes or renews the Lease, and reports whether this replica holds it. With an error, that is not known.
func (e *election) attempt(ctx context.Context) (bool, error) {
	lease, err := e.leases.Get(ctx, e.lease)
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: e.namespace, Name: e.lease}}
		e.hold(lease)
		_, err = e.leases.Create(ctx, lease)
		return err == nil, err
	}
	if err != nil {
		return false, err
	}
	if lease.ResourceVersion != e.version {
		e.version, e.since = lease.ResourceVersion, time.Now()
	}
	if by, seconds := holder(lease), lease.Spec.LeaseDurationSeconds; by != "" && by != e.replica && seconds != nil && time.Since(e.since) < time.Duration(*seconds)*time.Second {
		return false, nil
	}
	e.hold(lease)
	_, err = e.leases.Update(ctx, e.lease, lease)
	return err == nil, err
}

// hold writes this replica into a Lease.
func (e *election) hold(lease *coordinationv1.Lease) {
	now, seconds, spec := metav1.NowMicro(), int32((e.duration+time.Second-1)/time.Second), &lease.Spec //nolint:gosec // minutes at most
	if holder(lease) != e.replica {
		transitions := int32(1)
		if spec.LeaseTransitions != nil {
			transitions += *spec.LeaseTransitions
		}
		spec.HolderIdentity, spec.AcquireTime, spec.LeaseTransitions = &e.replica, &now, &transitions
	}
	spec.RenewTime, spec.LeaseDurationSeconds = &now, &seconds
}
