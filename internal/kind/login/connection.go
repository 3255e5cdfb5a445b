// SPDX-License-Identifier: Apache-2.0

package login

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// The fields that connections of each such kind have, beside kind.FieldPassword.
const (
	FieldURL  = "url"
	FieldCA   = "tls_ca"
	FieldCert = "tls_cert"
	FieldKey  = "tls_key"
)

// PasswordField describes kind.FieldPassword.
func PasswordField() kind.Field {
	return kind.Field{Name: kind.FieldPassword, Secret: true, Description: "The administrator's password. Give it on standard input, as password=-."}
}

// KeyField describes FieldKey.
func KeyField() kind.Field {
	return kind.Field{Name: FieldKey, Secret: true, Lines: true, Description: "The private key of tls_cert, in PEM (@file)."}
}

// NormalizeConnection fills in the defaults of a connection, reads its URL, and moves a password in it among the secrets.
// give says which URL belongs there, where there is none.
func NormalizeConnection(c kind.Connection, fields []kind.Field, give string, read func(text string) (dsn.URL, error)) (kind.Connection, dsn.URL, error) {
	c, err := c.WithDefaults(fields)
	if err != nil {
		return c, dsn.URL{}, err
	}
	if c.Options[FieldURL] == "" {
		return c, dsn.URL{}, errors.New("url is empty; give " + give)
	}
	u, err := read(c.Options[FieldURL])
	if err != nil {
		return c, u, fmt.Errorf("url: %w", err)
	}
	if !u.Password.Empty() {
		c.Secrets[kind.FieldPassword] = u.Password
		c.Options[FieldURL] = u.String()
	}
	if (c.Options[FieldCert] == "") != c.Secrets[FieldKey].Empty() {
		return c, u, errors.New("tls_cert and tls_key belong together; give both or none")
	}
	return c, u, nil
}

// Roots returns the CA of a connection; nil: those of the system.
func Roots(c kind.Connection) (*x509.CertPool, error) {
	if c.Options[FieldCA] == "" {
		return nil, nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(c.Options[FieldCA])) {
		return nil, errors.New("tls_ca holds no certificate in PEM")
	}
	return roots, nil
}

// Certificates returns the client certificate of a connection, if there is one.
func Certificates(c kind.Connection) ([]tls.Certificate, error) {
	if c.Options[FieldCert] == "" {
		return nil, nil
	}
	pair, err := tls.X509KeyPair([]byte(c.Options[FieldCert]), []byte(c.Secrets[FieldKey].Reveal()))
	if err != nil {
		return nil, errors.New("tls_cert and tls_key are not a certificate and its private key in PEM")
	}
	return []tls.Certificate{pair}, nil
}

const (
	// FewSessions is how many sessions are named that use a version.
	FewSessions = 3
	// MaxSessionWord is how many bytes are quoted of what a client says of itself.
	MaxSessionWord = 100
)

// Few returns the first of many texts, and how many more there are.
func Few(all []string, most int) []string {
	if len(all) > most {
		return append(slices.Clone(all[:most]), fmt.Sprintf("and %d more", len(all)-most))
	}
	return all
}

// Live reports whether a version of that number may be in use as far as Vault knows.
func Live(c kind.Change, number int) bool {
	if number == c.To.Number || number == c.From.Number {
		return true
	}
	v, ok := c.Key.Version(number)
	return ok && v.State.Live()
}

// Keep writes what Finding.Kept holds.
func Keep(memory any) string {
	data, err := json.Marshal(memory)
	if err != nil { // texts can be written
		return ""
	}
	return string(data)
}
