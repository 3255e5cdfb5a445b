// SPDX-License-Identifier: Apache-2.0

// Package kubernetes writes Secrets and restarts rollouts, for workloads that no sidecar stands beside: in a few requests over
// plain REST, since the libraries of Kubernetes would treble the sidecar.
package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// Where a pod finds what it may ask the API server with.
const (
	accountDir     = "/var/run/secrets/kubernetes.io/serviceaccount/"
	AccountToken   = accountDir + "token"
	AccountCA      = accountDir + "ca.crt"
	AccountSpace   = accountDir + "namespace"
	requestTimeout = 15 * time.Second
	maxAnswer      = 32 << 20 // a list of a few hundred pods
	maxToken       = 64 << 10
)

// Manager is the sidecar's name as a manager of fields.
const Manager = "hyvve-sidecar"

// Client asks an API server. Its files are read again: a token before each request, the authorities too.
type Client struct {
	Address   string // https://HOST:PORT
	CACert    string // file; empty: the system's
	TokenPath string

	mu     sync.Mutex
	ca     []byte // that http trusts
	client *http.Client
}

// request is one that can be made again without harm.
type request struct {
	method      string
	path        string // without query
	query       url.Values
	contentType string
	body        any
	what        string // it is about, in words: secret "metrics-auth" in namespace "monitoring"
	rule        rule   // of RBAC, that it needs
}

// do makes a request and reads its answer. A token that is refused is read again once: it may have just been replaced.
func (c *Client) do(ctx context.Context, r request, into any) error {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return err
		}
	}
	err := c.once(ctx, r, body, into)
	if refused := (*Error)(nil); errors.As(err, &refused) && refused.Code == http.StatusUnauthorized {
		err = c.once(ctx, r, body, into)
	}
	return err
}

func (c *Client) once(ctx context.Context, r request, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	token, err := readToken(c.TokenPath)
	if err != nil {
		return err
	}
	client, err := c.http()
	if err != nil {
		return err
	}
	at := strings.TrimRight(c.Address, "/") + r.path
	if len(r.query) > 0 {
		at += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, at, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("kubernetes: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", Manager)
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	resp, err := client.Do(req)
	if err != nil {
		return &Unreachable{what: r.what, err: err}
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return &Unreachable{what: r.what, err: err}
	}
	if resp.StatusCode/100 != 2 {
		return refusal(r, resp, answer)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(answer, into); err != nil { // whose text may quote the answer
		return fmt.Errorf("kubernetes: %s: the API server's answer has another form than this release knows (%T)", r.what, err)
	}
	return nil
}

// http returns the client, which is another one once the authorities are.
func (c *Client) http() (*http.Client, error) {
	var ca []byte
	if c.CACert != "" {
		var err error
		if ca, err = os.ReadFile(c.CACert); err != nil {
			return nil, fmt.Errorf("kubernetes: ca_cert: %w", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil && bytes.Equal(ca, c.ca) {
		return c.client, nil
	}
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CACert != "" {
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("kubernetes: ca_cert: %s holds no certificate in PEM", c.CACert)
		}
	}
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	c.ca, c.client = ca, &http.Client{
		// Without HTTP/2: there is one request at a time. A token is sent to nobody that the server points to.
		Transport: &http.Transport{
			TLSClientConfig: trust, MaxIdleConns: 1, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
			TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c.client, nil
}

// readToken reads the token, which stands in no error.
func readToken(path string) (string, error) {
	data, err := external.ReadFile(path, maxToken, func(string, fs.FileInfo) error { return nil })
	if err != nil {
		return "", fmt.Errorf("kubernetes: token_path: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }) {
		return "", fmt.Errorf("kubernetes: token_path: %s does not hold a token, in one line", path)
	}
	return token, nil
}

// InCluster returns the address of the API server for a pod; empty outside of one.
func InCluster() string {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return ""
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return "https://" + host + ":" + port
}
