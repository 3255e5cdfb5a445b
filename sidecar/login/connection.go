// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// requestLimit is longer than any watch.
const requestLimit = 90 * time.Second

// Address says where Vault is, and how it is known.
type Address struct {
	URL        string // or several, of a cluster, as client.NewVault takes them
	Namespace  string
	CACert     string // file
	CAPath     string // directory
	ServerName string // in Vault's certificate, where that is not the host of the URL
	ClientCert string // file; read again for each connection
	ClientKey  string // file
}

// Connection is a client of Vault, and what is known of the way to it.
type Connection struct {
	Vault *api.Client

	http    *http.Client
	address Address
	waitFor atomic.Int64 // until then, in nanoseconds of the Unix era, Vault asked to be left alone
}

// Connect makes a client. Nothing is sent yet; retries are the caller's own.
func Connect(a Address) (*Connection, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.MaxRetries, config.Timeout = 0, requestLimit
	if err := config.ConfigureTLS(&api.TLSConfig{CACert: a.CACert, CAPath: a.CAPath, TLSServerName: a.ServerName}); err != nil {
		return nil, fmt.Errorf("vault: ca_cert or ca_path: %w", err)
	}
	c := &Connection{http: config.HttpClient, address: a}
	if a.ClientCert != "" {
		transport, ok := config.HttpClient.Transport.(*http.Transport)
		if !ok {
			return nil, fmt.Errorf("vault: no client certificate for a transport of type %T", config.HttpClient.Transport)
		}
		// Whatever authorities the server names are not used: that of its own certificate may be another one.
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.certificate() }
	}
	v, err := client.NewVault(config, a.URL)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	v.ClearToken()
	if a.Namespace != "" {
		v.SetNamespace(a.Namespace)
	}
	c.Vault = v.WithResponseCallbacks(c.noteRetryAfter)
	return c, nil
}

func (c *Connection) certificate() (*tls.Certificate, error) {
	certificate, err := os.ReadFile(c.address.ClientCert)
	var private []byte
	if err == nil {
		private, err = external.ReadCredentialFile(c.address.ClientKey)
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.X509KeyPair(certificate, private)
	}
	if err != nil {
		return nil, fmt.Errorf("vault: client certificate %s with key %s: %w", c.address.ClientCert, c.address.ClientKey, err)
	}
	return &pair, nil
}

// renewCertificate lets the next request go over a connection of its own, with the certificate that the files hold now.
func (c *Connection) renewCertificate() error {
	if c.address.ClientCert == "" {
		return nil
	}
	if _, err := c.certificate(); err != nil {
		return err
	}
	c.http.CloseIdleConnections()
	return nil
}

// longestWait bounds what is believed of a Retry-After.
const longestWait = time.Minute

// noteRetryAfter notes when Vault, or what is before it, wants to be asked again (Retry-After of RFC 9110, section 10.2.3).
func (c *Connection) noteRetryAfter(r *api.Response) {
	if r.StatusCode != http.StatusTooManyRequests && r.StatusCode != http.StatusServiceUnavailable {
		return
	}
	text := r.Header.Get("Retry-After")
	var wait time.Duration
	if seconds, err := strconv.Atoi(text); err == nil {
		wait = time.Duration(min(max(seconds, 0), int(longestWait/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = min(time.Until(at), longestWait)
	}
	if wait > 0 {
		c.waitFor.Store(time.Now().Add(wait).UnixNano())
	}
}

// Wait is how long Vault has asked to be left alone from now on.
func (c *Connection) Wait() time.Duration {
	at := c.waitFor.Load()
	if at == 0 {
		return 0
	}
	return min(max(time.Until(time.Unix(0, at)), 0), longestWait)
}

// wrapping is a response-wrapping token in a file, and what is to be in it.
type wrapping struct {
	field, path string
	holds       string         // in words
	from        *regexp.Regexp // the path of Vault whose answer was wrapped
	pick        func(*api.Secret) string
}

// tokenPath is what wraps tokens: auth/token/create, with a role or not, and create-orphan.
var tokenPath = regexp.MustCompile(`^auth/token/create(-orphan|/[^/]+)?$`)

// secretIDPath is what wraps secret ids of the role; without one, of any role. One of another role does not fit the role id.
func (s Settings) secretIDPath() *regexp.Regexp {
	role := `[^/]+`
	if s.Role != "" {
		role = regexp.QuoteMeta(s.Role)
	}
	return regexp.MustCompile(`^auth/` + regexp.QuoteMeta(s.Mount) + `/role/` + role + `/secret-id$`)
}

// unwrapped is what a wrapping token was exchanged for. That can be done once only, which is what tells that nobody else has.
type unwrapped struct {
	sum   [sha256.Size]byte // of the wrapping token that Vault was asked to unwrap
	asked bool
	value string
}

// get returns what is wrapped. The file is looked at each time: one that holds another wrapping token takes the place of what
// was unwrapped, and one that is gone, as it may be once it has served, does not.
func (u *unwrapped) get(ctx context.Context, v *api.Client, w wrapping) (string, error) {
	token, err := read(w.field, w.path, external.ReadCredentialFile)
	if err != nil {
		if u.value != "" {
			return u.value, nil
		}
		return "", err
	}
	sum := sha256.Sum256([]byte(token))
	if u.value != "" && u.sum == sum {
		return u.value, nil
	}
	// These requests are made with the wrapping token and no other.
	other, err := v.CloneWithHeaders()
	if err != nil {
		return "", fmt.Errorf("vault: auth: %w", err)
	}
	other.ClearToken()
	if err := w.trust(ctx, other, token); err != nil {
		return "", w.wrong(err, u.asked && u.sum == sum)
	}
	u.sum, u.asked, u.value = sum, true, ""
	other.SetToken(token)
	secret, err := other.Logical().UnwrapWithContext(ctx, token)
	if err != nil {
		return "", w.wrong(err, false)
	}
	if secret != nil {
		u.value = w.pick(secret)
	}
	if u.value == "" {
		return "", fmt.Errorf("vault: auth: %s: what the token in %s wraps is no %s; wrap one with -wrap-ttl", w.field, w.path, w.holds)
	}
	return u.value, nil
}

var errOrigin = errors.New("the wrapping token has another origin")

// trust refuses a token that wraps the answer of another path: somebody may have taken what was wrapped, and wrapped
// something of their own. Looking does not use the token up.
func (w wrapping) trust(ctx context.Context, v *api.Client, token string) error {
	secret, err := v.Logical().WriteWithContext(ctx, "sys/wrapping/lookup", map[string]any{"token": token})
	if err != nil {
		return err
	}
	from := ""
	if secret != nil {
		from, _ = secret.Data["creation_path"].(string)
	}
	if !w.from.MatchString(from) {
		return fmt.Errorf("%w: the token in %s wraps an answer of %q, and not a %s (%s). Somebody may have put it there in place of the right one: find out who wrote the file, and put a new wrapping token into it",
			errOrigin, w.path, from, w.holds, w.from)
	}
	return nil
}

// wrong says what an error on the way means. A token that Vault does not know may have been unwrapped by somebody else.
func (w wrapping) wrong(err error, lost bool) error {
	if errors.Is(err, errOrigin) {
		return fmt.Errorf("vault: auth: %s: %w", w.field, err)
	}
	err = failed(err)
	switch {
	case errors.Is(err, client.ErrUnavailable):
		return err
	case lost:
		return fmt.Errorf("vault: auth: %s: the token in %s is used up: this sidecar asked to unwrap it, and the answer was lost; put a new wrapping token into the file: %w", w.field, w.path, err)
	}
	return fmt.Errorf("vault: auth: %s: the wrapping token in %s is used, or has ended. A sidecar that was restarted needs a new one. "+
		"If nobody has restarted this one and the token is younger than its TTL, the %s may have been intercepted: look in Vault's audit log for who has unwrapped it, and destroy the %s. "+
		"Then put a new wrapping token into the file: %w", w.field, w.path, w.holds, w.holds, err)
}

// podOf returns the pod and the node that the token of a service account is bound to, as its claims say ("Bound service
// account tokens" of Kubernetes; the node since release 1.30). Empty: they do not. Nothing is verified: it is for people.
func podOf(jwt string) (pod, node string) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return "", ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", ""
	}
	type named struct {
		Name string `json:"name"`
	}
	var claims struct {
		Kubernetes struct {
			Pod  named `json:"pod"`
			Node named `json:"node"`
		} `json:"kubernetes.io"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return "", ""
	}
	return dnsName(claims.Kubernetes.Pod.Name), dnsName(claims.Kubernetes.Node.Name)
}

func dnsName(name string) string {
	if key.ValidateDNSName(name) != nil {
		return ""
	}
	return name
}
