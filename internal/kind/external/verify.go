// SPDX-License-Identifier: Apache-2.0

package external

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// maxAnswer bounds the headers of an answer; its body is not read.
const maxAnswer = 64 << 10

// Verify implements kind.Verifier: it makes the request with the new value. Nothing is asked where the key has no URL.
func (k Kind) Verify(ctx context.Context, c kind.Change) error {
	options, err := k.Normalize(c.Key.Options)
	if err != nil {
		return err
	}
	if _, err := k.Check(options, c.To.Value); err != nil {
		return err
	}
	p, err := readProbe(options)
	if err != nil || p.url == nil {
		return err
	}
	if err := p.ask(ctx, c.To.Value.Reveal()); err != nil {
		return fmt.Errorf("%s: %w", p.where(), err)
	}
	return nil
}

// ask makes the request. The error says nothing that a server has said but the status: an answer may repeat the value.
func (p probe) ask(ctx context.Context, value string) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, p.method, p.url.String(), http.NoBody)
	if err != nil {
		return errors.New("the request cannot be made")
	}
	request.Header.Set(p.header, p.before+value+p.after)
	request.Header.Set("User-Agent", "vault-plugin-secrets-hyvve")
	client := p.client()
	defer client.CloseIdleConnections()
	answer, err := client.Do(request)
	if err != nil {
		return p.fault(ctx, err)
	}
	defer func() { _ = answer.Body.Close() }()
	return verdict(answer.StatusCode)
}

// client takes no proxy from the environment, keeps no connection, and follows no redirect: a redirect would take the value
// to a place that nobody has named.
func (p probe) client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxAnswer,
			TLSClientConfig:        &tls.Config{RootCAs: p.roots, MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func verdict(status int) error {
	said := fmt.Sprintf("status %d", status)
	if text := http.StatusText(status); text != "" {
		said += " " + text
	}
	switch {
	case status >= 200 && status < 300:
		return nil
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fmt.Errorf("the value is refused (%s); bring one that is valid there", said)
	case status >= 300 && status < 400:
		return fmt.Errorf("%s; redirects are not followed with the value: set %s to where it leads", said, optionURL)
	case status == http.StatusMethodNotAllowed:
		return fmt.Errorf("%s; set %s", said, optionMethod)
	}
	return fmt.Errorf("%s, which does not show whether the value is valid", said)
}

// fault says in words of our own why there was no answer. What net/http says may quote the server, and the URL with its
// query.
func (p probe) fault(ctx context.Context, err error) error {
	var certificate *tls.CertificateVerificationError
	var dial *net.OpError
	var name *net.DNSError
	switch {
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("no answer in time (%s is %v): %w", optionTimeout, duration.Text(p.timeout), ctx.Err())
	case ctx.Err() != nil:
		return fmt.Errorf("no answer yet: %w", ctx.Err())
	case errors.As(err, &certificate):
		return fmt.Errorf("the server's certificate is not trusted: %w; set %s to the PEM of its authority", certificate, optionCA)
	case errors.As(err, &name):
		return fmt.Errorf("the host is not found: %w", name)
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("the server cannot be reached: %w", dial)
	}
	return errors.New("the server does not answer in HTTP, or breaks the connection off; is the scheme, http or https, right?")
}
