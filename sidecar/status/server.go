// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/limits"
)

const (
	headTime   = 5 * time.Second
	answerTime = 10 * time.Second
	idleTime   = 90 * time.Second
	maxHead    = 16 << 10 // bytes
	maxConns   = 64       // from the network, where any neighbor may open some
	leaveTime  = time.Second
)

// Handler answers /metrics, /healthz, /readyz, /status and /await. It is for the sidecar's user alone.
func (b *Board) Handler() http.Handler {
	mux := b.probes(State.Unready)
	mux.HandleFunc("GET /status", b.answer)
	mux.HandleFunc("GET /await", b.await)
	return mux
}

// PublicHandler answers /metrics, /healthz and /readyz for any client. It returns no reasons, which name hosts, files and keys.
func (b *Board) PublicHandler() http.Handler {
	return b.probes(func(State) string { return "\"hyvve-sidecar status\" tells why" })
}

func (b *Board) probes(unready func(State) string) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(b.Registry(), promhttp.HandlerOpts{DisableCompression: true, MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "the sidecar runs") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := b.State()
		if s.Ready {
			_, _ = fmt.Fprintln(w, "what the workload needs to start is in place")
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprintln(w, "not ready:", unready(s))
	})
	return mux
}

func (b *Board) answer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(b.State())
}

// Unready says why what the workload needs to start is not in place, where it is not.
func (s State) Unready() string {
	switch {
	case s.Reason != "":
		return s.Reason
	case s.Vault != nil && s.Vault.Error != "":
		return s.Vault.Error
	case s.Vault != nil:
		return "there is no bundle yet"
	}
	return "files have not been looked at yet"
}

// Serve answers on all listeners until ctx ends: with all that there is at a socket, which only the sidecar's user may use, and
// as PublicHandler does elsewhere.
func (b *Board) Serve(ctx context.Context, log *slog.Logger, listeners ...net.Listener) {
	server := func(handler http.Handler) *http.Server {
		return &http.Server{
			Handler: handler, ReadHeaderTimeout: headTime, ReadTimeout: headTime, WriteTimeout: answerTime, IdleTimeout: idleTime,
			MaxHeaderBytes: maxHead, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
	}
	private, public := server(b.Handler()), server(b.PublicHandler())
	limits.NewConns(maxConns).Bound(public)
	done := make(chan struct{}, len(listeners))
	for _, l := range listeners {
		at := public
		if l.Addr().Network() == "unix" {
			at = private
		}
		go func() {
			if err := at.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				log.Error("status is not served any more", "address", l.Addr().String(), "error", err)
			}
			done <- struct{}{}
		}()
	}
	<-ctx.Done()
	bye, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	for _, at := range []*http.Server{private, public} {
		if at.Shutdown(bye) != nil {
			_ = at.Close()
		}
	}
	for range listeners {
		<-done
	}
}

// ErrInUse means that another process answers at a socket.
var ErrInUse = errors.New("another process answers there")

// Listen makes a socket that only the sidecar's user may use. One that an earlier run has left is replaced.
func Listen(path string) (net.Listener, error) {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is there and no socket; move it away, or write another path", path)
	default:
		if conn, err := net.DialTimeout("unix", path, headTime); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("%s: %w; if a sidecar with the same configuration runs, end one of the two, otherwise write another path for each", path, ErrInUse)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil { // until here, the umask decides who may ask; the status is no secret
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// AwaitMost is how long /await lets wait at most; who is not content asks again.
const AwaitMost = 3 * time.Second

// heldLook is the time between two looks at who waits. A kubelet that is started again takes longer to look at its pods.
const heldLook = 20 * time.Millisecond

// ErrAbandoned means that the process that held the workload back is gone. It may come back and take the sidecar for ready.
var ErrAbandoned = errors.New("nobody waits any more for what the workload needs to start, and it is not in place")

// waiters are those who hold others back until the state is ready. The board's lock is theirs.
type waiters struct {
	now  int       // how many ask at this moment
	last time.Time // when the last of those before has had its answer
	left bool      // it has gone without one
}

// await answers as /status does, once the state is ready, or after the duration of the query's "for".
func (b *Board) await(w http.ResponseWriter, r *http.Request) {
	most := AwaitMost
	if text := r.URL.Query().Get("for"); text != "" {
		wanted, err := time.ParseDuration(text)
		if err != nil {
			http.Error(w, "for: write a duration, such as 500ms", http.StatusBadRequest)
			return
		}
		most = min(wanted, AwaitMost)
	}
	b.mu.Lock()
	b.waiters.now++
	b.mu.Unlock()
	left := false
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.waiters.now--
		b.waiters.last, b.waiters.left = time.Now(), left
	}()
	enough := time.NewTimer(most)
	defer enough.Stop()
	select {
	case <-b.ready:
	case <-enough.C:
	case <-r.Context().Done():
		left = true
		return
	}
	b.answer(w, r)
}

// Held waits until the state is ready. It ends with ErrAbandoned when nobody waits for that at /await any more: when nobody has come
// within first, when the one who waited has gone, or has had an answer and not asked again for so long; and with that of ctx.
func (b *Board) Held(ctx context.Context, first, again time.Duration) error {
	ticker := time.NewTicker(heldLook)
	defer ticker.Stop()
	for begun := time.Now(); ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.ready:
			return nil
		case <-ticker.C:
		}
		b.mu.Lock()
		w := b.waiters
		b.mu.Unlock()
		switch {
		case w.now > 0:
		case w.left, w.last.IsZero() && time.Since(begun) > first, !w.last.IsZero() && time.Since(w.last) > again:
			return ErrAbandoned
		}
	}
}

// Get asks the sidecar that answers at a socket for one of the Handler's paths. The answer's body is to be closed, as any.
func Get(ctx context.Context, socket, path string) (*http.Response, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sidecar"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	return transport.RoundTrip(req)
}
