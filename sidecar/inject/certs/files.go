// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/watch"
)

// Files is a certificate that somebody else renews, as cert-manager does, in a directory: a mounted Secret of type
// kubernetes.io/tls.
type Files struct {
	Holder
	dir string
	log *slog.Logger
}

// NewFiles reads the certificate that must be there already.
func NewFiles(dir string, log *slog.Logger) (*Files, error) {
	f := &Files{dir: dir, log: log}
	p, err := f.read()
	if err != nil {
		return nil, fmt.Errorf("--cert-dir: %w; mount a Secret with tls.crt and tls.key there", err)
	}
	f.held.Store(p)
	return f, nil
}

func (f *Files) paths() (certificate, key string) {
	return filepath.Join(f.dir, "tls.crt"), filepath.Join(f.dir, "tls.key")
}

func (f *Files) read() (*Pair, error) {
	certificate, key := f.paths()
	certificates, err := os.ReadFile(certificate) //nolint:gosec // the operator names the directory
	if err != nil {
		return nil, err
	}
	keys, err := external.ReadCredentialFile(key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificates, keys)
	if err != nil {
		return nil, fmt.Errorf("tls.crt and tls.key in %s: %w", f.dir, err)
	}
	return &Pair{Leaf: pair.Leaf, tls: &pair}, nil
}

// Run follows the files until ctx ends. What does not hold together, as while one of the two is written, is not taken.
func (f *Files) Run(ctx context.Context) error {
	certificate, key := f.paths()
	warn := func(err error) { f.log.Warn("the certificate's files cannot be followed as they should", "error", err) }
	return watch.Files(ctx, []string{certificate, key}, watch.Options{Warn: warn, Started: f.reload}, func(context.Context) { f.reload() })
}

func (f *Files) reload() {
	p, err := f.read()
	if err != nil {
		f.log.Error("the certificate's files are not taken; the certificate before is presented", "error", err)
		return
	}
	if before := f.held.Swap(p); !before.Leaf.Equal(p.Leaf) {
		f.log.Info("another certificate is presented", "expires", p.Leaf.NotAfter)
	}
}

// Status tells how it is.
func (f *Files) Status(time.Time) Status { return Status{Expires: f.Expires()} }

// Leave implements Source: files need nothing.
func (f *Files) Leave(context.Context) error { return nil }
