// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Pair is a certificate that can be presented.
type Pair struct {
	Leaf      *x509.Certificate
	tls       *tls.Certificate
	authority []byte // DER; nil where that is somebody else's affair
}

func (p *Pair) valid(now time.Time) bool {
	return !now.Before(p.Leaf.NotBefore) && now.Before(p.Leaf.NotAfter)
}

// pair is what the record wants presented; nil if there is nothing yet.
func (r Record) pair() (*Pair, error) {
	if r.Serving == nil {
		return nil, nil
	}
	key, err := parseKey(r.Serving.Key)
	if err != nil {
		return nil, err
	}
	return &Pair{
		Leaf:      r.Serving.parsed,
		tls:       &tls.Certificate{Certificate: [][]byte{r.Serving.Certificate}, PrivateKey: key, Leaf: r.Serving.parsed},
		authority: r.authority(r.Serving.Generation).Certificate,
	}, nil
}

// choose returns what to present: what is offered, except while what is held is good and the API servers would not take the
// other.
func choose(held, offered *Pair, seen Seen, now time.Time) *Pair {
	switch {
	case offered == nil || !offered.valid(now):
		return held
	case held == nil || !held.valid(now), seen.holds(offered.authority), !seen.holds(held.authority):
		return offered
	}
	return held
}

// Holder has the certificate that is presented at this moment. Its zero value has none.
type Holder struct{ held atomic.Pointer[Pair] }

// Config is for a server whose certificate changes while it runs.
func (h *Holder) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if p := h.held.Load(); p != nil {
			return p.tls, nil
		}
		return nil, errors.New("there is no certificate yet")
	}}
}

// Expires is when the certificate ends that is presented; zero if there is none.
func (h *Holder) Expires() time.Time {
	if p := h.held.Load(); p != nil {
		return p.Leaf.NotAfter
	}
	return time.Time{}
}

// Ready says why API servers would not take the certificate now; nil if they do, as far as its dates say.
func (h *Holder) Ready(now time.Time) error {
	p := h.held.Load()
	switch {
	case p == nil:
		return errors.New("there is no serving certificate yet")
	case now.Before(p.Leaf.NotBefore):
		return fmt.Errorf("the serving certificate is valid from %s on only; compare the clocks", p.Leaf.NotBefore.Format(time.RFC3339))
	case !p.valid(now):
		return fmt.Errorf("the serving certificate has ended at %s", p.Leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}
