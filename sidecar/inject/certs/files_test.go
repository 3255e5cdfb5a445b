// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func TestChoose(t *testing.T) {
	pairOf := func(a *Authority, lifetime time.Duration, now time.Time) *Pair {
		s, err := a.issue(policy.Names, lifetime, now)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Record{Authorities: []Authority{*a}, Serving: s}.pair()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	authority := func(generation int) *Authority {
		a, err := newAuthority(generation, 9*time.Hour, start)
		if err != nil {
			t.Fatal(err)
		}
		return &a
	}
	old, young := authority(1), authority(2)
	held, ended, offered := pairOf(old, time.Hour, start), pairOf(old, -time.Second, start), pairOf(young, time.Hour, start)
	early := pairOf(young, time.Hour, start.Add(2*time.Hour))
	for name, c := range map[string]struct {
		held, offered, want *Pair
		bundle              []byte
	}{
		"nothing at all":              {nil, nil, nil, nil},
		"the first":                   {nil, offered, offered, nil},
		"nothing new":                 {held, nil, held, nil},
		"accepted":                    {held, offered, offered, pemOf(old.Certificate, young.Certificate)},
		"not accepted yet":            {held, offered, held, pemOf(old.Certificate)},
		"neither":                     {held, offered, offered, nil},
		"the old one has ended":       {ended, offered, offered, pemOf(old.Certificate)},
		"the new one has ended":       {held, ended, held, pemOf(old.Certificate)},
		"the new one is not yet good": {held, early, held, pemOf(young.Certificate)},
	} {
		if got := choose(c.held, c.offered, Seen{Bundles: [][]byte{c.bundle}}, start); got != c.want {
			t.Errorf("%s: another one", name)
		}
	}
}

// issueFiles writes tls.crt and tls.key as a volume of Kubernetes does: in a directory of its own, which a link is pointed at.
func issueFiles(t *testing.T, dir, version string, a *Authority) {
	t.Helper()
	s, err := a.issue(policy.Names, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(dir, version)
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"tls.crt": pemOf(s.Certificate), "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: s.Key})} {
		if err := os.WriteFile(filepath.Join(own, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "..tmp")
	if err := os.Symlink(version, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link, filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
}

func TestFiles(t *testing.T) {
	if _, err := NewFiles(t.TempDir(), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "--cert-dir") {
		t.Errorf("no files: %v", err)
	}
	dir := t.TempDir()
	authorities := make([]Authority, 2)
	for n := range authorities {
		var err error
		if authorities[n], err = newAuthority(n+1, time.Hour, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	issueFiles(t, dir, "one", &authorities[0])
	var logs kit.Log
	f, err := NewFiles(dir, slog.New(slog.NewTextHandler(&logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{TLSConfig: f.Config(), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "yes") })}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	asks := func(a Authority) bool {
		roots := x509.NewCertPool()
		roots.AddCert(a.parsed)
		conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{RootCAs: roots})
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	if !asks(authorities[0]) || asks(authorities[1]) || f.Ready(time.Now()) != nil {
		t.Errorf("the first certificate is not presented: %v", f.Ready(time.Now()))
	}
	issueFiles(t, dir, "two", &authorities[1])
	kit.Until(t, "the second certificate is presented", func() bool { return asks(authorities[1]) }, logs.String)
	if err := os.WriteFile(filepath.Join(dir, "two", "tls.key"), []byte("spoiled"), 0o600); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "spoiled files are told of", func() bool { return strings.Contains(logs.String(), "not taken") }, logs.String)
	if !asks(authorities[1]) || f.Status(time.Now()).Expires.IsZero() {
		t.Error("spoiled files are taken")
	}
	if err := f.Ready(time.Now().Add(2 * time.Hour)); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("after its end it is ready: %v", err)
	}
	if err := f.Ready(time.Now().Add(-2 * time.Hour)); err == nil || !strings.Contains(err.Error(), "clocks") {
		t.Errorf("before its time it is ready: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if (&Holder{}).Ready(time.Now()) == nil {
		t.Error("without a certificate it is ready")
	}
	if _, err := (&Holder{}).Config().GetCertificate(nil); err == nil {
		t.Error("without a certificate it serves")
	}
}

func TestClock(t *testing.T) {
	for _, ahead := range []time.Duration{0, time.Second, 4 * time.Minute, -4 * time.Minute, 10000 * time.Hour, -10000 * time.Hour} {
		c := clock{machine: func() time.Time { return start.Add(ahead) }}
		dates := []string{start.Add(-time.Hour).Format(http.TimeFormat), start.Format(http.TimeFormat), start.Add(-time.Second).Format(http.TimeFormat), "nonsense"}
		for _, date := range dates {
			tripper := c.wrap(roundTripper(func(*http.Request) (*http.Response, error) {
				return &http.Response{Header: http.Header{"Date": {date}}, Body: http.NoBody}, nil
			}))
			answer, err := tripper.RoundTrip(nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
		}
		if c.now().Sub(start).Abs() > most {
			t.Errorf("a machine that is %s ahead has it at %s", ahead, c.now())
		}
	}
}
