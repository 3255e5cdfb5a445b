// SPDX-License-Identifier: Apache-2.0

package http

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// What an answer may have, in bytes.
const (
	maxHeaders = 64 << 10
	maxAnswer  = 1 << 20
)

// request is one to the provider.
type request struct {
	method string
	base   *url.URL
	path   string // below the base, with a query
	header string // that carries a secret
	secret string // what it carries
	body   string
	form   string // of the body; empty: there is none
}

// where names a request without its query, for errors.
func (r request) where() string {
	path, _, _ := strings.Cut(r.path, "?")
	return r.method + " " + r.base.Scheme + "://" + r.base.Host + r.base.EscapedPath() + path
}

// answer is what the provider says.
type answer struct {
	status int
	links  []string
	body   []byte
}

func (a answer) ok() bool { return a.status >= 200 && a.status < 300 }

// refused reports whether the provider does not take the secret.
func (a answer) refused() bool {
	return a.status == nethttp.StatusUnauthorized || a.status == nethttp.StatusForbidden
}

func (a answer) said() string {
	text := fmt.Sprintf("status %d", a.status)
	if name := nethttp.StatusText(a.status); name != "" {
		text += " " + name
	}
	return text
}

// basic is a user and a password as HTTP's Basic scheme has them.
func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

// send makes a request. No error says what the provider has said but for the status: it may repeat a secret.
func (a api) send(ctx context.Context, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	u, err := url.Parse(r.base.String() + r.path)
	if err != nil || u.Host != r.base.Host || u.Scheme != r.base.Scheme || u.User != nil {
		return answer{}, fmt.Errorf("%s: the request cannot be made: its path is not one below %s", r.where(), fieldAPI)
	}
	asked, err := nethttp.NewRequestWithContext(ctx, r.method, u.String(), strings.NewReader(r.body))
	if err != nil || !printable(r.secret) {
		return answer{}, fmt.Errorf("%s: the request cannot be made", r.where())
	}
	asked.Header.Set(r.header, r.secret)
	asked.Header.Set("Accept", "application/json")
	asked.Header.Set("User-Agent", "vault-plugin-secrets-hyvve")
	if r.form != "" {
		asked.Header.Set("Content-Type", r.form)
	}
	client := a.client()
	defer client.CloseIdleConnections()
	said, err := client.Do(asked)
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", r.where(), a.fault(ctx, err))
	}
	defer func() { _ = said.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(said.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, fmt.Errorf("%s: %w", r.where(), a.fault(ctx, err))
	case len(body) > maxAnswer:
		return answer{}, fmt.Errorf("%s: the answer has more than %d bytes", r.where(), maxAnswer)
	}
	return answer{said.StatusCode, said.Header.Values("Link"), body}, nil
}

// client takes no proxy from the environment, keeps no connection, and follows no redirect: a redirect would take the secret
// to a place that nobody has named.
func (a api) client() *nethttp.Client {
	return &nethttp.Client{
		Transport: &nethttp.Transport{
			Proxy:                  nil,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxHeaders,
			TLSClientConfig:        &tls.Config{RootCAs: a.roots, MinVersion: tls.VersionTLS12},
			DialContext:            a.dial,
		},
		CheckRedirect: func(*nethttp.Request, []*nethttp.Request) error { return nethttp.ErrUseLastResponse },
	}
}

// private is the error of a host with an address that is not one of the internet, and that nobody has allowed.
type private struct{ host, address string }

func (p private) Error() string {
	return fmt.Sprintf("%s has the address %s, which is not one of the internet; add the host to %s of the connection if it may be called", p.host, p.address, kind.FieldAllowedHosts)
}

// dial looks at the address that is called, and not at one that was found before: a name may have another one by then.
func (a api) dial(ctx context.Context, network, at string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Control: func(_, called string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(called)
		if err != nil {
			return err
		}
		address := to.Addr().WithZone("").Unmap()
		if isPublic(address) || a.allowed.Allow(host, port) || a.allowed.Allow(address.String(), port) {
			return nil
		}
		return private{host, address.String()}
	}}
	return dialer.DialContext(ctx, network, at)
}

// notPublic are addresses that Go does not call private, and that no provider on the internet has.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("fec0::/10"),
}

func isPublic(address netip.Addr) bool {
	if !address.IsGlobalUnicast() || address.IsPrivate() {
		return false
	}
	for _, prefix := range notPublic {
		if prefix.Contains(address) {
			return false
		}
	}
	return true
}

// fault says in words of our own why there was no answer. What net/http says may quote the server.
func (a api) fault(ctx context.Context, err error) error {
	var certificate *tls.CertificateVerificationError
	var dial *net.OpError
	var name *net.DNSError
	var closed private
	switch {
	case errors.As(err, &closed):
		return closed
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("no answer in time (%s is %v): %w", fieldTimeout, duration.Text(a.timeout), ctx.Err())
	case ctx.Err() != nil:
		return fmt.Errorf("no answer yet: %w", ctx.Err())
	case errors.As(err, &certificate):
		return fmt.Errorf("the server's certificate is not trusted: %w; set %s to the PEM of its authority", certificate, fieldCA)
	case errors.As(err, &name):
		return fmt.Errorf("the host is not found: %w", name)
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("the server cannot be reached: %w", dial)
	}
	return errors.New("the server does not answer in HTTP, or breaks the connection off")
}
