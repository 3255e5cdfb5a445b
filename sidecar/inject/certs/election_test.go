// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// lockServer keeps one Lease as an API server does. Requests take their time, are lost, or lose their answers.
type lockServer struct {
	mu      sync.Mutex
	lease   *coordinationv1.Lease
	version int
	random  *rand.Rand
	faults  float64
	away    bool
	answers time.Duration // longer that an answer takes
}

var leaseResource = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}

func (s *lockServer) do(ctx context.Context, change func() error) (*coordinationv1.Lease, error) {
	s.mu.Lock()
	lost, unanswered := s.random.Float64() < s.faults, s.random.Float64() < s.faults
	before, after := time.Duration(s.random.IntN(300))*time.Millisecond, time.Duration(s.random.IntN(300))*time.Millisecond
	if s.random.Float64() < s.faults {
		before = time.Duration(s.random.IntN(20)) * time.Second
	}
	s.mu.Unlock()
	wait := func(d time.Duration) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return nil
		}
	}
	gone := wait(before) // such a request may still arrive
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away || lost {
		return nil, errors.New("connection refused")
	}
	if gone != nil && s.random.IntN(2) == 0 {
		return nil, gone
	}
	if err := change(); err != nil {
		return nil, err
	}
	answer := s.lease.DeepCopy()
	s.mu.Unlock()
	err := errors.Join(gone, wait(after+s.answers))
	s.mu.Lock()
	if unanswered {
		err = errors.New("connection reset")
	}
	return answer, err
}

func (s *lockServer) Get(ctx context.Context, name string) (*coordinationv1.Lease, error) {
	return s.do(ctx, func() error {
		if s.lease == nil {
			return apierrors.NewNotFound(leaseResource, name)
		}
		return nil
	})
}

func (s *lockServer) store(lease *coordinationv1.Lease) {
	s.version++
	s.lease = lease.DeepCopy()
	s.lease.ResourceVersion = strconv.Itoa(s.version)
}

func (s *lockServer) Create(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	return s.do(ctx, func() error {
		if s.lease != nil {
			return apierrors.NewAlreadyExists(leaseResource, lease.Name)
		}
		s.store(lease)
		return nil
	})
}

func (s *lockServer) Update(ctx context.Context, name string, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	return s.do(ctx, func() error {
		if lease.ResourceVersion != s.lease.ResourceVersion {
			return apierrors.NewConflict(leaseResource, name, errors.New("somebody else has written it"))
		}
		s.store(lease)
		return nil
	})
}

// parliament is replicas that elect one of them.
type parliament struct {
	t       *testing.T
	server  *lockServer
	mu      sync.Mutex
	leaders map[string]bool
	changes int
	stops   map[string]context.CancelFunc
	running sync.WaitGroup
}

// pass lets time of the bubble pass.
func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // nothing waits for it

const electionDuration = 15 * time.Second

func newParliament(t *testing.T, seed uint64) *parliament {
	return &parliament{t: t, server: &lockServer{random: rand.New(rand.NewPCG(seed, 0))}, leaders: map[string]bool{}, stops: map[string]context.CancelFunc{}}
}

// start starts a replica. Two that lead at the same time are an error.
func (p *parliament) start(name string) {
	ctx, stop := context.WithCancel(context.Background())
	p.stops[name] = stop
	e := election{leases: p.server, namespace: "hyvve", lease: "injector", replica: name, duration: electionDuration, log: slog.New(slog.DiscardHandler)}
	set := func(leading bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.changes++
		if delete(p.leaders, name); leading {
			p.leaders[name] = true
		}
		if len(p.leaders) > 1 {
			p.t.Errorf("at %v these lead: %v", time.Now(), p.leaders)
		}
	}
	p.running.Go(func() { e.run(ctx, set) })
}

func (p *parliament) leader() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.leaders {
		return name
	}
	return ""
}

func (p *parliament) end() {
	for _, stop := range p.stops {
		stop()
	}
	p.running.Wait()
}

// Whatever is lost or late, no two replicas lead at once, and one leads when the network works again.
func TestElectionHasOneLeader(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newParliament(t, seed)
				defer p.end()
				p.server.faults = []float64{0, 0.05, 0.3}[seed%3]
				for n := range 3 {
					p.start(fmt.Sprint("replica-", n))
				}
				random := rand.New(rand.NewPCG(seed, 1))
				for range 40 {
					pass(time.Duration(random.IntN(30)) * time.Second)
					p.server.mu.Lock()
					p.server.away = random.IntN(4) == 0
					p.server.mu.Unlock()
				}
				p.server.mu.Lock()
				p.server.away, p.server.faults = false, 0
				p.server.mu.Unlock()
				pass(4 * electionDuration)
				if p.leader() == "" {
					t.Error("nobody leads")
				}
			})
		})
	}
}

// Without faults the first leader stays; one that ends is followed at once; one whose machine is lost, after the duration.
func TestElectionFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newParliament(t, 1)
		defer p.end()
		for n := range 3 {
			p.start(fmt.Sprint("replica-", n))
		}
		pass(time.Hour)
		first := p.leader()
		p.mu.Lock()
		changes := p.changes
		p.mu.Unlock()
		if first == "" || changes != 1 {
			t.Fatalf("%q leads after %d changes", first, changes)
		}
		p.stops[first]()
		pass(electionDuration / 2)
		second := p.leader()
		if second == "" || second == first {
			t.Fatalf("%q follows %q", second, first)
		}
		lost := "replica-lost"
		p.server.mu.Lock()
		next := p.server.lease.DeepCopy()
		next.Spec.HolderIdentity = &lost
		p.server.store(next)
		p.server.mu.Unlock()
		pass(electionDuration / 3)
		if now := p.leader(); now != "" {
			t.Errorf("%q leads while the Lease is another's", now)
		}
		pass(electionDuration + electionDuration/3) // the loss is seen, and then noticed as one, up to a third late each
		if p.leader() == "" {
			t.Error("nobody leads after a replica was lost")
		}
		p.server.mu.Lock()
		defer p.server.mu.Unlock()
		if got := *p.server.lease.Spec.LeaseTransitions; got != 3 {
			t.Errorf("%d transitions", got)
		}
	})
}

// A replica that ends while the answer to its first write is on its way does not keep the Lease.
func TestElectionResignsWhatItMayHaveTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newParliament(t, 1)
		defer p.end()
		p.server.answers = 5 * time.Second
		p.start("replica-0")
		pass(3 * time.Second) // the read is answered, the write has arrived and is not
		p.server.mu.Lock()
		taken := p.server.lease != nil && holder(p.server.lease) == "replica-0"
		p.server.mu.Unlock()
		if !taken {
			t.Fatal("the Lease is not taken yet")
		}
		p.stops["replica-0"]()
		pass(electionDuration)
		p.server.mu.Lock()
		defer p.server.mu.Unlock()
		if h := holder(p.server.lease); h != "" {
			t.Errorf("%q holds the Lease and has ended", h)
		}
	})
}
