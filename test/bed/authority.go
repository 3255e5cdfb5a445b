// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
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
