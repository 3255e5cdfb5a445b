// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Authority is the private certificate authority of a bed. The servers of the bed that speak TLS have theirs from it.
type Authority struct {
	File string // its certificate, PEM

	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Certificate is one of the authority's and its private key, in files of PEM.
type Certificate struct{ CertFile, KeyFile string }

// authorities makes the authority of a bed once, when it is first asked for.
type authorities struct {
	once sync.Once
	made *Authority
	err  error
}

// Authority returns the bed's.
func (b *Bed) Authority() (*Authority, error) {
	b.authority.once.Do(func() { b.authority.made, b.authority.err = newAuthority(filepath.Join(b.Dir, "tls")) })
	return b.authority.made, b.authority.err
}

func newAuthority(dir string) (*Authority, error) {
	if err := os.Mkdir(dir, 0o711); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test bed"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate authority: %w", err)
	}
	a := &Authority{File: filepath.Join(dir, "ca.pem"), dir: dir, key: key}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, writePEM(a.File, 0o644, "CERTIFICATE", der)
}

// Client returns a certificate for a client whose common name is name. Kubernetes takes organizations for its groups.
func (a *Authority) Client(name string, organizations ...string) (Certificate, error) {
	return a.issue(pkix.Name{CommonName: name, Organization: organizations}, x509.ExtKeyUsageClientAuth, nil)
}

// Server returns a certificate for a server on 127.0.0.1.
func (a *Authority) Server(name string) (Certificate, error) { return a.server(name, nil) }

// server returns a certificate for a server on 127.0.0.1, and at further addresses, that runs as owner. Servers are clients of
// each other where they replicate.
func (a *Authority) server(name string, owner *account, addresses ...net.IP) (Certificate, error) {
	return a.issue(pkix.Name{CommonName: name}, x509.ExtKeyUsageServerAuth, owner, addresses...)
}

func (a *Authority) issue(name pkix.Name, usage x509.ExtKeyUsage, owner *account, addresses ...net.IP) (Certificate, error) {
	dir, err := os.MkdirTemp(a.dir, "issued-")
	if err != nil {
		return Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: name,
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	if usage == x509.ExtKeyUsageServerAuth {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		template.DNSNames, template.IPAddresses = []string{"localhost"}, append(addresses, net.IPv4(127, 0, 0, 1))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Certificate{}, fmt.Errorf("issuing a certificate for %s: %w", name.CommonName, err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Certificate{}, err
	}
	c := Certificate{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	return c, errors.Join(
		writePEM(c.CertFile, 0o644, "CERTIFICATE", der),
		writePEM(c.KeyFile, 0o600, "PRIVATE KEY", secret),
		owner.own(dir, c.CertFile, c.KeyFile),
	)
}

// TLS configures a client that trusts the bed's servers, and no others.
func (a *Authority) TLS() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

func writePEM(path string, mode os.FileMode, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

// Prometheus is a private Prometheus server.
type Prometheus struct {
	URL     string
	LogPath string

	bed     *Bed
	spec    spec
	process *process
}

// Prometheus starts one with a configuration in its own form (YAML).
func (b *Bed) Prometheus(ctx context.Context, config string) (*Prometheus, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	return b.PrometheusAt(ctx, port, config)
}

// PrometheusAt starts one at a loopback port that somebody else knows already.
func (b *Bed) PrometheusAt(ctx context.Context, port int, config string) (*Prometheus, error) {
	binary, err := prometheusBinary()
	if err != nil {
		return nil, err
	}
	home, err := os.MkdirTemp(b.Dir, "prometheus-")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(home, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	address := "127.0.0.1:" + strconv.Itoa(port)
	p := &Prometheus{URL: "http://" + address, bed: b, spec: spec{
		name: filepath.Base(home), path: binary, dir: home, stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGKILL,
		args: []string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(home, "data"), "--web.listen-address=" + address, "--log.level=debug"},
	}}
	return p, p.Start(ctx)
}

// prometheusBinary finds what scripts/setup has unpacked, or one that is installed.
func prometheusBinary() (string, error) { return prometheusTool("prometheus") }

func prometheusTool(name string) (string, error) {
	if path := Tool("tools", name); exists(path) {
		return path, nil
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("%s is not there; run scripts/setup (make test and make demo do)", name)
}

// Start starts it, again after Stop or Kill on the same port.
func (p *Prometheus) Start(ctx context.Context) error {
	p.bed.say("starting Prometheus on %s", p.URL)
	var err error
	if p.process, err = p.bed.start(p.spec); err != nil {
		return err
	}
	p.LogPath = p.process.log
	return p.process.await(ctx, func(ctx context.Context) error {
		_, err := p.get(ctx, "/-/ready")
		return err
	})
}

// Stop ends it.
func (p *Prometheus) Stop() error { return p.process.stop(stopPatience) }

// Query evaluates an expression of PromQL now, and returns the values of its vector.
func (p *Prometheus) Query(ctx context.Context, expression string) ([]float64, error) {
	body, err := p.get(ctx, "/api/v1/query?query="+url.QueryEscape(expression))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			Result []struct {
				Value [2]any `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("%s: %w", expression, err)
	}
	var values []float64
	for _, r := range answer.Data.Result {
		v, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", expression, err)
		}
		values = append(values, v)
	}
	return values, nil
}

func (p *Prometheus) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("prometheus answered %s: %s", resp.Status, body)
	}
	return body, err
}
