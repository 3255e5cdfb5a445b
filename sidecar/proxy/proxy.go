// SPDX-License-Identifier: Apache-2.0

// Package proxy stands before an application that reads one value of a key when it starts. It accepts every value on the
// accept-list, and hands the application the one that it holds, so that the application needs no change and refuses
// nobody while a key rotates. All else reaches the application as it is: its own 401, its own limits.
package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/limits"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/watch"
)

const (
	headerTime   = 10 * time.Second // for a client to send the head of a request
	idleTime     = 75 * time.Second // of a client's connection
	upstreamIdle = 4 * time.Second  // less than Node's 5 s: a request must not meet a connection that is being closed
	dialTime     = 5 * time.Second
	drainTime    = 5 * time.Second // for requests to end when the sidecar stops
	maxHeaders   = 28 << 10        // and 4 KiB that net/http adds
	maxIdle      = 256
	copySize     = 32 << 10
)

// Key is a key that clients present to the application.
type Key = config.ProxyKey

// Options of a proxy.
type Options struct {
	Upstream *url.URL // http, host and port
	Keys     []Key
	Requests int // that may be under way; config.ProxyRequests if 0
	Log      *slog.Logger
}

// Proxy is an http.Handler.
type Proxy struct {
	keys    []*held
	log     *slog.Logger
	reverse *httputil.ReverseProxy
	host    string
	told    atomic.Int64 // when a failure was logged last: Unix seconds

	gate      gate
	transport *http.Transport
	most      int            // requests under way
	places    *limits.Budget // of most
}

var _ http.Handler = (*Proxy)(nil)

// New makes a proxy, which knows no values before Restore or Take.
func New(o Options) *Proxy {
	most := cmp.Or(o.Requests, config.ProxyRequests)
	p := &Proxy{log: o.Log, host: o.Upstream.Host, most: most, places: limits.NewBudget(int64(most))}
	for _, k := range o.Keys {
		h := newHeld(k)
		h.settled = func(err error) {
			if err != nil {
				p.log.Warn("a value that the application does not hold any more is kept", "key", h.env, "error", err)
			}
		}
		h.presented = func(t workload.Trip) {
			p.log.Warn("a retired value was presented: a forgotten job or an intruder", "key", t.Env, "version", t.Version, "requests", t.Count, "from", t.From)
		}
		h.failed = func(err error) {
			p.log.Warn("how often retired values were presented is not kept for the next start", "error", err)
		}
		p.keys = append(p.keys, h)
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTime}).DialContext,
		IdleConnTimeout:     upstreamIdle,
		MaxIdleConns:        maxIdle,
		MaxIdleConnsPerHost: maxIdle,
		DisableCompression:  true, // what the client asks for and gets is between it and the application
	}
	p.transport = transport
	p.reverse = &httputil.ReverseProxy{
		Rewrite:       p.rewrite(o.Upstream),
		Transport:     attempts{transport, limits.NewBudget(replayed)},
		FlushInterval: -1,
		BufferPool:    &buffers{},
		ErrorHandler:  p.failed,
		ErrorLog:      slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	return p
}

// buffers spares each response an allocation.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if kept, ok := b.pool.Get().(*[]byte); ok {
		return *kept
	}
	return make([]byte, copySize)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(buffer []byte) { b.pool.Put(&buffer) }

// Restore loads what an earlier run has stored.
func (p *Proxy) Restore() error {
	var errs []error
	for _, k := range p.keys {
		errs = append(errs, k.restore())
	}
	return errors.Join(errs...)
}

// Take loads a bundle. It must be called before the application's files are written with its values, and must have
// succeeded then.
func (p *Proxy) Take(b client.Bundle) error {
	var errs []error
	for _, k := range p.keys {
		errs = append(errs, k.take(b))
	}
	return errors.Join(errs...)
}

// Restarted says that the application was started after its files had been written with the newest values. It spares
// the application a request that it refuses; a restart that nobody tells of is found out.
func (p *Proxy) Restarted() {
	for _, k := range p.keys {
		k.restarted()
	}
}

// Sightings returns what was seen of values that are accepted and not the newest, ordered by key and version.
func (p *Proxy) Sightings() []workload.Sighting {
	var all []workload.Sighting
	for _, k := range p.keys {
		k.books.Do(func(b *books) {
			for _, s := range b.sightings {
				all = append(all, *s)
			}
		})
	}
	slices.SortFunc(all, func(a, b workload.Sighting) int {
		if a.Env != b.Env {
			return strings.Compare(a.Env, b.Env)
		}
		return a.Version - b.Version
	})
	return all
}

// News returns a number that grows with each request that [Proxy.Sightings] and [Proxy.Trips] tell of. Their times may be in the future,
// after the clock was set back.
func (p *Proxy) News() (n uint64) {
	for _, k := range p.keys {
		k.books.Do(func(b *books) { n += b.news })
	}
	return n
}

// Serve answers on l until ctx ends, and lets requests under way end for a short while then. HTTP/2 is spoken with
// clients that begin with it (h2c), HTTP/1.1 with the application.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: p, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeaders, Protocols: protocols,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: streams, MaxReceiveBufferPerConnection: h2Buffer, MaxReceiveBufferPerStream: h2Stream},
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	limits.NewConns(p.most + idleConns).Bound(server)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		p.Resume() // nobody else will
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		if server.Shutdown(drain) != nil {
			_ = server.Close() // what is left is cut
		}
	})
	defer func() {
		for _, k := range p.keys {
			k.stop()
		}
	}()
	err := server.Serve(l)
	if stop() {
		return err // of its own accord
	}
	<-stopped
	return nil
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		http.Error(w, "this proxy stands before an application; it makes no tunnels", http.StatusMethodNotAllowed)
		return
	}
	a, r := p.admit(w, r)
	if a == nil {
		return
	}
	defer a.end()
	// The application may answer before it has read the request, as it may without us. HTTP/2 can without being told.
	_ = http.NewResponseController(w).EnableFullDuplex()
	defer p.gate.enter(r.Context(), lasts(r))()
	p.reverse.ServeHTTP(a, r)
}

// forwarded are headers that the reverse proxy takes away since they could be lies. They are the client's, or those of
// what stands before us, and the application believes them or not as it did without us.
var forwarded = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

func (p *Proxy) rewrite(upstream *url.URL) func(*httputil.ProxyRequest) {
	return func(pr *httputil.ProxyRequest) {
		in, out := pr.In, pr.Out
		out.URL.Scheme, out.URL.Host = upstream.Scheme, upstream.Host
		out.URL.RawQuery = in.URL.RawQuery
		out.Host = in.Host
		for _, name := range forwarded {
			if values, ok := in.Header[name]; ok {
				out.Header[name] = slices.Clone(values)
			}
		}
		// Behind any other upgrade than WebSocket, such as to h2c, would be requests that nobody translates.
		if upgrade := out.Header.Get("Upgrade"); upgrade != "" && !strings.EqualFold(upgrade, "websocket") {
			out.Header.Del("Upgrade")
			out.Header.Del("Connection")
		}
		// The same map: trailers are written into it when the body has been read.
		out.Trailer = in.Trailer
		m, ok := p.translate(in.Header, out.Header)
		p.look(in.Header, m, ok, host(in.RemoteAddr))
		if !ok {
			return
		}
		m.key.see(m.state, m.place, host(in.RemoteAddr))
		pr.Out = withMatch(out, m)
	}
}

// tell reports whether a failure is to be logged: no more than one a second.
func (p *Proxy) tell() bool {
	now := time.Now().Unix()
	return p.told.Swap(now) != now
}

func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}

// failed answers where the application did not. The error is put into words of our own: those of others may quote what
// was sent.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, errCut) || errors.Is(context.Cause(r.Context()), errCut) {
		if a, ok := w.(*admitted); ok {
			a.close()
			w = a.ResponseWriter
		}
		p.busy(w)
		return
	}
	if r.Context().Err() != nil {
		w.WriteHeader(http.StatusBadGateway) // the client is gone
		return
	}
	what := "closed the connection, or answered something else than HTTP" // net/http does not tell them apart by type
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		what = "does not listen there; is it running?"
	case errors.As(err, &timeout) && timeout.Timeout():
		what = "did not take the connection in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		what = "closed the connection before it had answered"
	}
	if p.tell() {
		p.log.Warn("the application did not answer a request", "upstream", p.host, "what", what)
	}
	http.Error(w, "hyvve-sidecar proxy: the application at "+p.host+" "+what, http.StatusBadGateway)
}

const help = `Usage: hyvve-sidecar proxy --listen=ADDRESS --upstream=URL --key=NAME --bundle=FILE [flags]

Stands before an application that reads one token when it starts, accepts every token on the accept-list of a bundle file,
and hands the application its own. The file is rendered by something else, such as another sidecar (render "bundle"), and
followed. Nothing is reported; "hyvve-sidecar agent" with a proxy block does that, too.
`

// NewCommand returns "hyvve-sidecar proxy".
func NewCommand() *cobra.Command {
	var s config.ProxyBlock
	var bundle string
	cmd := usage.New("hyvve-sidecar proxy", "accept every accepted token before an application that holds one", help, func(cmd *cobra.Command, _ []string) error {
		dir := ""
		if bundle != "" {
			dir = filepath.Dir(bundle)
		}
		k, upstream, errs := s.Check(dir)
		if !filepath.IsAbs(bundle) {
			errs = append(errs, errors.New("bundle is missing, or not an absolute path; name the file with the accept-list"))
		}
		for n, err := range errs { // each begins with the name of a setting
			errs[n] = fmt.Errorf("--%w", err)
		}
		if len(errs) > 0 {
			return usage.Wrong(errors.Join(errs...))
		}
		p := New(Options{Upstream: upstream, Keys: []Key{k}, Requests: s.MaxRequests, Log: usage.Logger(cmd.ErrOrStderr(), slog.LevelInfo)})
		return p.follow(cmd.Context(), s.Listen, bundle)
	})
	flags := cmd.Flags()
	flags.StringVar(&s.Listen, "listen", "", "`ADDRESS` for clients to come to, such as 127.0.0.1:8081")
	flags.StringVar(&s.Upstream, "upstream", "", "`URL` of the application, such as http://127.0.0.1:3000")
	flags.StringVar(&s.Key, "key", "", "`NAME` of the key in the bundle, such as AGENT_SERVICE_TOKEN")
	flags.StringVar(&s.Header, "header", "", "`NAME` of the header that holds the token; Authorization, with Bearer, otherwise")
	flags.StringVar(&bundle, "bundle", "", "`FILE` of a bundle, in JSON")
	flags.StringVar(&s.State, "state", "", "`FILE` to keep what the application may hold; beside the bundle otherwise")
	flags.IntVar(&s.MaxRequests, "max-requests", config.ProxyRequests, "`NUMBER` of requests that may be under way")
	return cmd
}

// follow serves, and loads the bundle whenever it changes, until ctx ends.
func (p *Proxy) follow(ctx context.Context, address, bundle string) error {
	if err := p.Restore(); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("%w; end what listens there, or give another --listen", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx, l); cancel() }()
	take := func(context.Context) {
		b, err := readBundle(bundle)
		if err == nil {
			err = p.Take(b)
		}
		if err != nil {
			p.log.Error("bundle not taken up; tokens are accepted as before", "error", err)
			return
		}
		p.log.Info("bundle taken up", "etag", b.Etag)
	}
	o := watch.Options{
		Warn:    func(err error) { p.log.Warn("the bundle is harder to follow than it should be", "error", err) },
		Started: func() { take(ctx) },
	}
	err = watch.Files(ctx, []string{bundle}, o, take)
	cancel()
	return errors.Join(err, <-served)
}

// readBundle reads what render "bundle" writes.
func readBundle(path string) (client.Bundle, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the operator names it
	if err != nil {
		return client.Bundle{}, err
	}
	var plain api.Bundle
	if json.Unmarshal(data, &plain) != nil { // the parser's own error may quote what the file holds
		return client.Bundle{}, fmt.Errorf("%s is not a bundle in JSON; let render \"bundle\" write it", path)
	}
	b, err := client.Opaque(plain)
	if err != nil {
		return client.Bundle{}, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}
