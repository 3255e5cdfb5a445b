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
	if err := s.Certs.Leave(bye); err != nil {
		s.Log.Warn("this replica's word on its certificate stays until that ends", "error", err)
	}
	for n, err := range errs {
		if errors.Is(err, http.ErrServerClosed) {
			errs[n] = nil
		}
	}
	return errors.Join(errs...)
}
