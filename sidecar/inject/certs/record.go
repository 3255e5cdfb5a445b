// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

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
