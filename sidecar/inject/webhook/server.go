// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject/certs"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/limits"
)

const (
	headTime = 5 * time.Second
	bodyTime = 12 * time.Second // an API server waits for 10
	idleTime = 5 * time.Minute
	maxHead  = 16 << 10 // bytes, and 4 KiB that net/http adds
	lastTime = 5 * time.Second
)

// Server answers reviews over TLS, and probes and Prometheus without.
type Server struct {
	Options inject.Options
	Own     string        // namespace of the injector
	Certs   certs.Source  // of the serving certificate
	Drain   time.Duration // for which it keeps serving when it is to end, until everybody has noticed
	Log     *slog.Logger

	ending atomic.Bool
}

// ready says why no review should be sent here.
func (s *Server) ready() error {
	if s.ending.Load() {
		return errors.New("the injector is ending")
	}
	return s.Certs.Ready(time.Now())
}

// statusHandler answers probes and Prometheus.
func (s *Server) statusHandler(registry *prometheus.Registry) http.Handler {
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registerState(registry, s.Certs, s.ready)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{DisableCompression: true, MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "the injector runs") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintln(w, "not ready:", err)
			return
		}
		_, _ = fmt.Fprintln(w, "reviews are answered, with a certificate that API servers take")
	})
	return mux
}

// server speaks HTTP/1.1 only, as API servers do with webhooks: a connection has one request at a time.
func (s *Server) server(handler http.Handler, maxConns int) *http.Server {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headTime, ReadTimeout: bodyTime, WriteTimeout: bodyTime, IdleTimeout: idleTime,
		MaxHeaderBytes: maxHead, ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug), Protocols: protocols,
	}
	limits.NewConns(maxConns).Bound(server)
	return server
}

// leaving lets connections end with an answer, once this is to end. API servers keep them, and do not repeat a review that they
// have sent just when an idle one is closed.
func (s *Server) leaving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.ending.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// Run serves until ctx ends. Then it is unready at once, so that no new connection comes, keeps serving for Drain, and ends when all
// reviews under way are answered.
func (s *Server) Run(ctx context.Context, reviews, status net.Listener) error {
	registry := prometheus.NewRegistry()
	mux := http.NewServeMux()
	mux.Handle(Path, Handler{Options: s.Options, Own: s.Own, Log: s.Log, Metrics: NewMetrics(registry), Bounds: NewBounds()})
	main, side := s.server(s.leaving(mux), maxConns), s.server(s.statusHandler(registry), maxStatus)
	main.TLSConfig = s.Certs.Config()

	running, stop := context.WithCancel(context.WithoutCancel(ctx)) // certificates are followed until the last answer
	defer stop()
	ended := make(chan error, 3)
	go func() { ended <- s.Certs.Run(running) }()
	go func() { ended <- main.ServeTLS(reviews, "", "") }()
	go func() { ended <- side.Serve(status) }()
	var errs []error
	left := cap(ended)
	select {
	case <-ctx.Done():
		s.ending.Store(true)
		s.Log.Info("injector ends", "drain", s.Drain)
		select {
		case <-time.After(s.Drain):
		case err := <-ended:
			errs, left = append(errs, err), left-1
		}
	case err := <-ended: // which none of them should
		s.ending.Store(true)
		errs, left = append(errs, err), left-1
	}
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
	defer cancel()
	if main.Shutdown(bye) != nil {
		_ = main.Close()
	}
	stop()
	_ = side.Close()
	for range left {
		errs = append(errs, <-ended)
	}
	last, done := context.WithTimeout(context.WithoutCancel(ctx), lastTime) // its own: requests may have used that of before up
	defer done()
	if err := s.Certs.Leave(last); err != nil {
		s.Log.Warn("this replica's word on its certificate stays until that ends", "error", err)
	}
	for n, err := range errs {
		if errors.Is(err, http.ErrServerClosed) {
			errs[n] = nil
		}
	}
	return errors.Join(errs...)
}

// What reviews take together at most. With these and inject.Measure the injector stays below the chart's memory limit of 128 MiB:
// the program takes about 30 MB, connections 12, bodies 16, what is made of them 24 and as much again until it is collected.
const (
	maxConns       = 256     // from API servers
	maxStatus      = 64      // from probes and Prometheus
	maxBody        = 2 << 20 // bytes: etcd takes 1.5 MiB, and JSON is longer
	smallBody      = 64 << 10
	leastBody      = 4 << 10 // counted for a body, however short
	bodiesTogether = 8 << 20 // bytes of small bodies; as many again of large ones
	keptBody       = 128 << 10
	lightCost      = 1 << 20         // bytes that a light review takes once it is read
	lightTogether  = 4               // reviews at a time
	heavyWaiting   = 4               // heavy reviews under way: one is made, and the others wait
	patience       = 4 * time.Second // of a review that waits; an API server waits for 10 in all
)

// Bounds are what all reviews of a server share.
type Bounds struct {
	small, large *limits.Budget // bytes of bodies
	light, heavy chan struct{}  // reviews that are made
	queued       atomic.Int32   // heavy reviews that are made, or wait
	told         atomic.Int64   // when something that was no review was logged last: Unix seconds
}

// NewBounds returns bounds that nothing is taken of.
func NewBounds() *Bounds {
	return &Bounds{
		small: limits.NewBudget(bodiesTogether), large: limits.NewBudget(bodiesTogether),
		light: make(chan struct{}, lightTogether), heavy: make(chan struct{}, 1),
	}
}

// tell reports whether it is to be logged that something came which is no review: no more than once a second.
func (b *Bounds) tell() bool {
	now := time.Now().Unix()
	return b.told.Swap(now) != now
}

// body takes room for the body of a review. The client that has been sending one for the longest time is cut, if there is none.
func (b *Bounds) body(w http.ResponseWriter, r *http.Request) (*limits.Share, bool) {
	length := r.ContentLength
	switch {
	case length < 0:
		length = maxBody
	case length > maxBody:
		length = leastBody // of which no more is read
	}
	budget := b.small
	if length > smallBody {
		budget = b.large
	}
	control := http.NewResponseController(w)
	return budget.Take(r.Context(), max(length, leastBody), func() {
		_ = control.SetReadDeadline(time.Unix(1, 0))
		_ = control.SetWriteDeadline(time.Unix(1, 0))
	})
}

// enter waits until a review of such a cost may be made, and returns what is to be called afterwards. It reports whether it may.
func (b *Bounds) enter(ctx context.Context, cost int64) (leave func(), ok bool) {
	lane := b.light
	if cost > lightCost {
		lane = b.heavy
		if b.queued.Add(1) > heavyWaiting {
			b.queued.Add(-1)
			return nil, false
		}
	}
	leave = func() {
		<-lane
		if lane == b.heavy {
			b.queued.Add(-1)
		}
	}
	select {
	case lane <- struct{}{}:
		return leave, true
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case lane <- struct{}{}:
		return leave, true
	case <-ctx.Done():
		if lane == b.heavy {
			b.queued.Add(-1)
		}
		return nil, false
	}
}
