// SPDX-License-Identifier: Apache-2.0

// Package certs makes, keeps and rotates the serving certificate of the webhook, where nobody else does; otherwise it follows
// the files in which somebody else does.
//
// It is the idea of this whole project, applied to its own TLS: a new authority is accepted (in caBundle, everywhere) before
// anyone presents a certificate of it, and the old one is retired on evidence that no replica presents one of its own any
// more. Policy.Next, a pure function of the record, the observations and the time, returns the next step. The record is one
// Secret, the only source of truth; every write of it compares and swaps.
package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// backdate is how far before now certificates begin: clocks of API servers differ.
const backdate = time.Hour

// private is a key in PKCS #8. It is written into the record, and shows itself nowhere else.
type private []byte

const redacted = "[private key]"

func (private) String() string       { return redacted }
func (private) GoString() string     { return redacted }
func (private) LogValue() slog.Value { return slog.StringValue(redacted) }

// Authority is a certificate authority of the webhook's own.
type Authority struct {
	Generation  int       `json:"generation"`        // counted up from 1; 0 of one that was found in caBundle when there was no record
	Certificate []byte    `json:"certificate"`       // DER
	Key         private   `json:"key,omitempty"`     // none of one that was found
	Accepted    time.Time `json:"accepted,omitzero"` // since when caBundle is seen to hold it
	Issued      time.Time `json:"issued,omitzero"`   // when the last of the certificates ends that it has signed
	parsed      *x509.Certificate
}

// newAuthority makes one that is valid from a little before now.
func newAuthority(generation int, lifetime time.Duration, now time.Time) (Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Authority{}, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: fmt.Sprintf("hyvve-injector CA %d", generation)},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(lifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if template.SerialNumber, err = serial(); err != nil {
		return Authority{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Authority{}, err
	}
	a := Authority{Generation: generation, Certificate: der}
	if a.Key, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return Authority{}, err
	}
	return a, a.parse()
}

func serial() (*big.Int, error) { return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) }

func (a *Authority) parse() (err error) {
	if a.parsed, err = x509.ParseCertificate(a.Certificate); err != nil {
		return fmt.Errorf("authority %d: %w", a.Generation, err)
	}
	if !a.parsed.IsCA {
		return fmt.Errorf("authority %d: its certificate is no authority's", a.Generation)
	}
	if a.Key != nil {
		if err := matches(a.parsed, a.Key); err != nil {
			return fmt.Errorf("authority %d: %w", a.Generation, err)
		}
	}
	return nil
}

func parseKey(key private) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("its key does not parse: %w", err)
	}
	own, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("its key is a %T, not one for ECDSA", parsed)
	}
	return own, nil
}

func matches(certificate *x509.Certificate, key private) error {
	own, err := parseKey(key)
	if err != nil {
		return err
	}
	if !own.PublicKey.Equal(certificate.PublicKey) {
		return fmt.Errorf("its key is another certificate's")
	}
	return nil
}

// fingerprint names an authority in logs and in what replicas say that they present.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:8])
}

func (a *Authority) usable(now time.Time) bool {
	return !now.Before(a.parsed.NotBefore) && now.Before(a.parsed.NotAfter)
}

// made is when it was.
func made(c *x509.Certificate) time.Time { return c.NotBefore.Add(backdate) }

// due is when what replaces a certificate should be made: two thirds of its life after it was.
func due(c *x509.Certificate) time.Time {
	return made(c).Add(c.NotAfter.Sub(made(c)) * 2 / 3)
}

// issue makes a serving certificate for names, of which some may be IP addresses. It does not outlive its authority.
func (a *Authority) issue(names []string, lifetime time.Duration, now time.Time) (*Serving, error) {
	signer, err := parseKey(a.Key)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	end := now.Add(lifetime)
	if end.After(a.parsed.NotAfter) {
		end = a.parsed.NotAfter
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "hyvve-injector"},
		NotBefore: now.Add(-backdate), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if template.SerialNumber, err = serial(); err != nil {
		return nil, err
	}
	s := &Serving{Generation: a.Generation, Since: now}
	if s.Certificate, err = x509.CreateCertificate(rand.Reader, template, a.parsed, key.Public(), signer); err != nil {
		return nil, err
	}
	if s.Key, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return nil, err
	}
	return s, s.parse()
}

// certificatesIn returns all certificates of a text in PEM; what else stands there is passed over.
func certificatesIn(text []byte) (all [][]byte) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return all
		}
		if block.Type == "CERTIFICATE" {
			all = append(all, block.Bytes)
		}
	}
}

func pemOf(certificates ...[]byte) []byte {
	var text bytes.Buffer
	for _, der := range certificates {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a buffer takes all
	}
	return text.Bytes()
}

// Serving is what all replicas present: one certificate, and its key.
type Serving struct {
	Generation  int       `json:"generation"` // of its authority
	Certificate []byte    `json:"certificate"`
	Key         private   `json:"key"`
	Since       time.Time `json:"since"` // when a certificate of this authority was first made to be presented
	parsed      *x509.Certificate
}

func (s *Serving) parse() (err error) {
	if s.parsed, err = x509.ParseCertificate(s.Certificate); err != nil {
		return fmt.Errorf("serving certificate: %w", err)
	}
	if err = matches(s.parsed, s.Key); err != nil {
		return fmt.Errorf("serving certificate: %w", err)
	}
	return nil
}

func (s *Serving) valid(now time.Time) bool {
	return !now.Before(s.parsed.NotBefore) && now.Before(s.parsed.NotAfter)
}

// Record is all that is kept, oldest authority first: all of these, and no others, belong into caBundle.
type Record struct {
	Authorities []Authority `json:"authorities"`
	Serving     *Serving    `json:"serving,omitempty"`
}

// parseRecord reads what Encode has written. It refuses what does not hold together, so that it is repaired, not served.
func parseRecord(data []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, errors.New("the record is no JSON of ours") // the error of json might quote from it
	}
	for n := range r.Authorities {
		if err := r.Authorities[n].parse(); err != nil {
			return Record{}, err
		}
	}
	if len(r.Authorities) == 0 {
		return Record{}, errors.New("the record has no authority")
	}
	if r.Serving != nil {
		if err := r.Serving.parse(); err != nil {
			return Record{}, err
		}
		issuer := r.authority(r.Serving.Generation)
		if issuer == nil || r.Serving.parsed.CheckSignatureFrom(issuer.parsed) != nil {
			return Record{}, errors.New("the serving certificate is of no authority in the record")
		}
	}
	return r, nil
}

func (r Record) encode() ([]byte, error) { return json.Marshal(r) }

// clone is deep enough for Next, which changes authorities and replaces what they hold.
func (r Record) clone() Record {
	r.Authorities = slices.Clone(r.Authorities)
	if r.Serving != nil {
		s := *r.Serving
		r.Serving = &s
	}
	return r
}

func (r Record) authority(generation int) *Authority {
	for n := range r.Authorities {
		if r.Authorities[n].Generation == generation {
			return &r.Authorities[n]
		}
	}
	return nil
}

// newest is that of the last authority that we have the key of; nil if there is none.
func (r Record) newest() *Authority {
	for n := len(r.Authorities) - 1; n >= 0; n-- {
		if r.Authorities[n].Key != nil {
			return &r.Authorities[n]
		}
	}
	return nil
}

// bundle is what caBundle should be.
func (r Record) bundle() []byte {
	certificates := make([][]byte, 0, len(r.Authorities))
	for _, a := range r.Authorities {
		certificates = append(certificates, a.Certificate)
	}
	return pemOf(certificates...)
}

// Presents is what a replica says of itself: of which authority the certificate is that it presents, and when that ends. It
// says so before it presents a first one, and after it has changed to another.
type Presents struct {
	Authority string    `json:"authority"` // fingerprint
	Until     time.Time `json:"until"`
}

// Seen is what is around the record.
type Seen struct {
	Bundles  [][]byte            // caBundle of each webhook in the configuration; none: there is no configuration
	Replicas map[string]Presents // what each has said last
}

// holds reports whether all webhooks accept an authority.
func (s Seen) holds(der []byte) bool {
	for _, bundle := range s.Bundles {
		if !slices.ContainsFunc(certificatesIn(bundle), func(c []byte) bool { return bytes.Equal(c, der) }) {
			return false
		}
	}
	return len(s.Bundles) > 0
}

// most is how far two clocks that are one may be apart: Date has whole seconds, and an answer takes its time.
const most = 2 * time.Second

// clock is the API server's, by the Date of its answers (RFC 9110, 6.6.1), to a few seconds. Replicas on machines whose clocks
// differ have it in common; and one that is far ahead, which takes all authorities for ended, harms nobody.
type clock struct {
	machine func() time.Time
	ahead   atomic.Int64 // nanoseconds
}

func (c *clock) now() time.Time { return c.machine().Add(-time.Duration(c.ahead.Load())).Round(0) }

func (c *clock) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		answer, err := next.RoundTrip(r)
		if err == nil {
			if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
				if ahead := c.machine().Sub(date); (ahead - time.Duration(c.ahead.Load())).Abs() > most {
					c.ahead.Store(int64(ahead))
				}
			}
		}
		return answer, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
