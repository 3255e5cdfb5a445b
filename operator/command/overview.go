// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

// Overview is what hyvve status -o json prints.
type Overview struct {
	Keys        map[string]KeyOverview        `json:"keys" doc:"By name: the keys."`
	Workloads   map[string]WorkloadOverview   `json:"workloads" doc:"By name: the workloads."`
	Connections map[string]ConnectionOverview `json:"connections" doc:"By name: the connections."`
	LockedOut   []api.LockedOut               `json:"locked_out" doc:"Instances that run with retired versions of keys."`
	Leaving     []api.Leaving                 `json:"leaving" doc:"Instances whose sidecars have stopped beside their processes."`
	NotRead     []string                      `json:"not_read" doc:"What the token may not read, in words."`
}

// KeyOverview is a key of an [Overview].
type KeyOverview struct {
	api.KeyStatus
	Instances *Holding `json:"instances,omitempty" doc:"Instances of the workloads that use it. Absent if not all of them could be read."`
}

// Holding counts instances.
type Holding struct {
	Live    int `json:"live" doc:"How many are live."`
	Holding int `json:"holding" doc:"How many of those have loaded the current version."`
}

// WorkloadOverview is a workload of an [Overview].
type WorkloadOverview struct {
	Live         int      `json:"live" doc:"Number of live instances."`
	Healthy      int      `json:"healthy" doc:"How many of those are healthy."`
	MinInstances int      `json:"min_instances" doc:"A rotation waits until so many live instances take part."`
	Keys         []string `json:"keys" doc:"Keys that it presents or verifies."`
	Unhealthy    []string `json:"unhealthy" doc:"Instances that are not healthy, and why, in words; the first five."`
	Change       string   `json:"change" doc:"How far its instances have followed the last change of its keys, in words; empty: all have."`
	Conflicts    []string `json:"name_conflicts" doc:"Instances whose names two processes use, in words."`
	LimitHit     string   `json:"limit_hit" doc:"That reads were refused in the last day, in words."`
}

// ConnectionOverview is a connection of an [Overview].
type ConnectionOverview struct {
	Kind                   string    `json:"kind" doc:"Kind of server."`
	Checked                *api.Time `json:"checked_time,omitempty" doc:"When it was last checked. Absent if it was not."`
	Problems               []string  `json:"problems" doc:"What the last check found wrong, in words."`
	Notes                  []string  `json:"notes" doc:"What an operator should know of the server, in words."`
	RootRotationUnfinished bool      `json:"root_rotation_unfinished" doc:"Whether rotate-root has begun and not ended."`
}

const (
	atOnce        = 8 // requests
	mostUnhealthy = 5
)

// overview reads the status, and each workload and connection that the token may read.
func (s *session) overview(ctx context.Context) (Overview, error) {
	status, err := s.engine.Status(ctx)
	if err != nil {
		return Overview{}, err
	}
	o := Overview{
		Keys: map[string]KeyOverview{}, Workloads: map[string]WorkloadOverview{}, Connections: map[string]ConnectionOverview{},
		LockedOut: status.LockedOut, Leaving: status.Leaving, NotRead: []string{},
	}
	workloads, refused, err := readAll(ctx, s.engine.Workloads, s.engine.Workload)
	if err != nil {
		return Overview{}, err
	}
	if refused {
		o.NotRead = append(o.NotRead, fmt.Sprintf("Your token may not read all of %s/workloads.", s.mount))
	}
	for name, k := range status.Keys {
		key := KeyOverview{KeyStatus: k}
		if !refused {
			key.Instances = new(holding(name, k.CurrentVersion, workloads))
		}
		o.Keys[name] = key
	}
	for name, w := range workloads {
		o.Workloads[name] = workloadOverview(w)
	}
	connections, refused, err := readAll(ctx, s.engine.Connections, s.engine.Connection)
	if err != nil {
		return Overview{}, err
	}
	if refused {
		o.NotRead = append(o.NotRead, fmt.Sprintf("Your token may not read all of %s/connections.", s.mount))
	}
	for name, c := range connections {
		o.Connections[name] = ConnectionOverview{Kind: c.Kind, Checked: c.Checked, Problems: notNil(c.Problems), Notes: notNil(c.Notes), RootRotationUnfinished: c.RootRotationUnfinished}
	}
	return o, nil
}

// readAll lists names, and reads what they name, several at once. What has gone meanwhile is left out. refused: the token may not
// read all of it.
func readAll[T any](ctx context.Context, list func(context.Context) ([]string, error), read func(context.Context, string) (T, error)) (all map[string]T, refused bool, err error) {
	names, err := list(ctx)
	if errors.Is(err, client.ErrDenied) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	var mu sync.Mutex
	all = map[string]T{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, name := range names {
		group.Go(func() error {
			one, err := read(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, client.ErrDenied):
				refused = true
			case errors.Is(err, client.ErrRefused):
			case err != nil:
				return err
			default:
				all[name] = one
			}
			return nil
		})
	}
	return all, refused, group.Wait()
}

// holding counts the instances of the workloads that use a key, and those that have loaded its current version.
func holding(key string, current int, workloads map[string]api.Workload) Holding {
	var h Holding
	for _, w := range workloads {
		if !slices.Contains(w.Presents, key) && !slices.Contains(w.Verifies, key) {
			continue
		}
		for _, i := range w.Instances {
			h.Live++
			if held := i.Loaded[key]; current > 0 && (held.Presents == current || slices.Contains(held.Accepts, current)) {
				h.Holding++
			}
		}
	}
	return h
}

func workloadOverview(w api.Workload) WorkloadOverview {
	o := WorkloadOverview{
		Live: len(w.Instances), MinInstances: w.MinInstances, Unhealthy: []string{}, Change: w.Change, Conflicts: notNil(w.Conflicts), LimitHit: w.LimitHit,
		Keys: slices.Compact(slices.Sorted(slices.Values(slices.Concat(w.Presents, w.Verifies)))),
	}
	for _, i := range w.Instances {
		switch {
		case i.Healthy:
			o.Healthy++
		case len(o.Unhealthy) < mostUnhealthy && i.Reason != "":
			o.Unhealthy = append(o.Unhealthy, i.Instance+": "+i.Reason)
		case len(o.Unhealthy) < mostUnhealthy:
			o.Unhealthy = append(o.Unhealthy, i.Instance+" is not healthy")
		}
	}
	o.Keys = notNil(o.Keys)
	return o
}

// notNil is a list that JSON shows as [] where it is empty.
func notNil(list []string) []string { return append([]string{}, list...) }
