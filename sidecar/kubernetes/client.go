// SPDX-License-Identifier: Apache-2.0

// Package kubernetes writes Secrets and restarts rollouts, for workloads that no sidecar stands beside: in a few requests over
// plain REST, since the libraries of Kubernetes would treble the sidecar.
package kubernetes

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
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
		return &Unreachable{what: r.what, err: external.Lasting(err)}
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return &Unreachable{what: r.what, err: external.Lasting(err)}
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

// rule is one of RBAC.
type rule struct {
	verb, group, resource, name, namespace string
}

func (r rule) String() string {
	resource := r.resource
	if r.group != "" {
		resource += "." + r.group
	}
	text := fmt.Sprintf("the verb %q on %s", r.verb, resource)
	if r.name != "" {
		text += fmt.Sprintf(" with the name %q", r.name)
	}
	return fmt.Sprintf("%s in namespace %q", text, r.namespace)
}

// Unreachable is the error of a request that the API server did not answer. It may have acted or not.
type Unreachable struct {
	what string
	err  error
}

// Error implements error.
func (u *Unreachable) Error() string {
	return fmt.Sprintf("kubernetes: %s: the API server does not answer: %v", u.what, u.err)
}

// Unwrap returns the reason.
func (u *Unreachable) Unwrap() error { return u.err }

// Conflict is a field that somebody else manages.
type Conflict struct{ Manager, Field string }

// Error is a request that the API server has refused.
type Error struct {
	Code      int    // of HTTP
	Reason    string // of Kubernetes
	Message   string
	Conflicts []Conflict

	request request
	wait    time.Duration
}

// RetryAfter is how long the API server wants to be left alone.
func (e *Error) RetryAfter() time.Duration { return e.wait }

// longestWait bounds what a server may ask for.
const longestWait = time.Minute

// refusal reads an answer that is none of 2xx.
func refusal(r request, resp *http.Response, answer []byte) *Error {
	e := &Error{Code: resp.StatusCode, request: r}
	var status struct {
		Kind    string `json:"kind"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
		Details struct {
			Causes []struct {
				Reason  string `json:"reason"`
				Message string `json:"message"`
				Field   string `json:"field"`
			} `json:"causes"`
		} `json:"details"`
	}
	if json.Unmarshal(answer, &status) == nil && status.Kind == "Status" {
		e.Reason, e.Message = status.Reason, status.Message
		for _, c := range status.Details.Causes {
			if c.Reason == "FieldManagerConflict" {
				e.Conflicts = append(e.Conflicts, Conflict{Manager: manager(c.Message), Field: strings.TrimPrefix(c.Field, ".")})
			}
		}
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.wait = min(time.Duration(seconds)*time.Second, longestWait)
	}
	return e
}

// manager is the name in: conflict with "kubectl-edit" using v1.
func manager(message string) string {
	_, rest, ok := strings.Cut(message, `"`)
	name, _, ended := strings.Cut(rest, `"`)
	if !ok || !ended {
		return message
	}
	return name
}

// Error says what was refused, and what to do.
func (e *Error) Error() string {
	text := fmt.Sprintf("kubernetes: %s: the API server answered %d", e.request.what, e.Code)
	if e.Reason != "" {
		text += " " + e.Reason
	}
	if e.Message != "" && len(e.Conflicts) == 0 {
		text += ": " + e.Message
	}
	if advice := e.advice(); advice != "" {
		text += "; " + advice
	}
	return text
}

func (e *Error) advice() string {
	switch {
	case e.Code == http.StatusUnauthorized:
		return "the token of token_path is not taken: is it of this cluster, for its API server's audience, and not expired?"
	case e.Code == http.StatusForbidden && e.Reason == "Forbidden" && strings.Contains(e.Message, " cannot "):
		return "give the sidecar's account " + e.request.rule.String() + " (docs/kubernetes-secret.md has the Role)"
	case e.Code == http.StatusNotFound:
		return "create it, or mend name and namespace in the configuration"
	case len(e.Conflicts) > 0:
		return owned(e.Conflicts)
	case e.Code == http.StatusConflict:
		return "somebody else has changed it at the same moment; it is tried again"
	case e.Code == http.StatusUnprocessableEntity:
		return "mend the render or reload block"
	}
	return ""
}

// owned says who manages fields, and what to do.
func owned(conflicts []Conflict) string {
	var owners []string
	for _, c := range conflicts {
		owners = append(owners, fmt.Sprintf("%s is managed by %q", c.Field, c.Manager))
	}
	return strings.Join(owners, ", ") + "; take the field out of what that manager applies, or set force = true for the sidecar to take it over"
}

// notFound reports whether there is no such object.
func notFound(err error) bool {
	e := (*Error)(nil)
	return errors.As(err, &e) && e.Code == http.StatusNotFound
}

// Away reports whether an error is no word on the workload: the API server does not answer, or is overloaded.
func Away(err error) bool {
	e, u := (*Error)(nil), (*Unreachable)(nil)
	return errors.As(err, &u) || errors.As(err, &e) && (e.Code == http.StatusTooManyRequests || e.Code >= http.StatusInternalServerError)
}

// What the API server takes (k8s.io/apimachinery/pkg/util/validation).
var (
	label        = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	subdomain    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	dataKey      = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)
	qualified    = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
	longestLabel = 63
	longestName  = 253
)

// CheckName refuses what cannot be the name of an object.
func CheckName(field, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is missing", field)
	case len(name) > longestName || !subdomain.MatchString(name):
		return fmt.Errorf("%s = %q cannot be the name of an object: it is lower-case letters, digits, - and ., at most %d of them", field, name, longestName)
	}
	return nil
}

// CheckNamespace refuses what cannot be the name of a namespace.
func CheckNamespace(field, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is missing; set it here or in the kubernetes block", field)
	case len(name) > longestLabel || !label.MatchString(name):
		return fmt.Errorf("%s = %q cannot be the name of a namespace: it is lower-case letters, digits and -, at most %d of them", field, name, longestLabel)
	}
	return nil
}

// checkDataKey refuses what cannot be a key of a Secret's data.
func checkDataKey(name string) error {
	if len(name) > longestName || !dataKey.MatchString(name) || name == "." || strings.HasPrefix(name, "..") {
		return fmt.Errorf("data: %q cannot be a key of a Secret: it is letters, digits, -, _ and ., at most %d of them", name, longestName)
	}
	return nil
}

// checkQualified refuses what cannot be the key of a label or an annotation.
func checkQualified(field, name string) error {
	prefix, rest, prefixed := strings.Cut(name, "/")
	if !prefixed {
		prefix, rest = "", name
	}
	if prefixed && (len(prefix) > longestName || !subdomain.MatchString(prefix)) || len(rest) > longestLabel || !qualified.MatchString(rest) {
		return fmt.Errorf("%s: %q cannot be a key there: it is letters, digits, -, _ and ., at most %d of them, perhaps after a domain and /", field, name, longestLabel)
	}
	if prefix == ownDomain || strings.HasSuffix(prefix, "."+ownDomain) {
		return fmt.Errorf("%s: %q is the sidecar's own; take it out", field, name)
	}
	return nil
}

func checkLabelValue(name, value string) error {
	if value != "" && (len(value) > longestLabel || !qualified.MatchString(value)) {
		return fmt.Errorf("labels: the value of %q is none: it is letters, digits, -, _ and ., at most %d of them", name, longestLabel)
	}
	return nil
}

const (
	ownDomain = "hyvve.app"
	// changedKey, at a Secret, is when its data last became other. It names what the data is, and tells nothing of it.
	changedKey = ownDomain + "/changed"
)

// templateKey is the annotation of a pod template that says which change of a Secret it was restarted for. Pods get it from
// their template, so that each says what it has read.
func templateKey(secret string) string {
	if len(secret) > longestLabel {
		sum := sha256.Sum256([]byte(secret))
		const kept = 46
		secret = strings.TrimRight(secret[:kept], "-.") + "-" + hex.EncodeToString(sum[:8])
	}
	return "secret." + ownDomain + "/" + secret
}
