// SPDX-License-Identifier: Apache-2.0

package login

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
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
