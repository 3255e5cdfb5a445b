// SPDX-License-Identifier: Apache-2.0

package reload

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// HTTP makes a request. Credentials are read from their files for each.
type HTTP struct {
	URL             string
	Method          string // POST if empty
	Headers         map[string]string
	HeaderFiles     map[string]string // files of values, by name of header
	BasicAuthFile   string            // of "user:password"
	BearerTokenFile string
	Statuses        []int // that are success; 2xx if empty
	Timeout         time.Duration
	Mask            func(text string) string
}

var (
	_ Reloader = HTTP{}
	_ Masker   = HTTP{}
)

// WithMask implements Masker.
func (h HTTP) WithMask(mask func(string) string) Reloader {
	h.Mask = mask
	return h
}

// maxAnswer is how much of an answer is read.
const maxAnswer = 64 << 10

// Reload implements Reloader.
func (h HTTP) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	method := h.Method
	if method == "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, h.URL, http.NoBody)
	if err != nil {
		return fmt.Errorf("reload request: %w", err)
	}
	secrets, err := h.dress(req)
	if err != nil {
		return fmt.Errorf("reload request: %w", err)
	}
	resp, err := external.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	if err != nil {
		return fmt.Errorf("reload request: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if len(h.Statuses) == 0 && resp.StatusCode/100 == 2 || slices.Contains(h.Statuses, resp.StatusCode) {
		return nil
	}
	said := external.Quote{Kept: body, Part: len(body) == maxAnswer}.Start(func(text string) string {
		for _, s := range secrets {
			text = strings.ReplaceAll(text, s, "[redacted]")
		}
		if h.Mask != nil {
			text = h.Mask(text)
		}
		return text
	})
	if said != "" {
		said = ": " + said
	}
	return fmt.Errorf("reload request: %s answered %s%s", req.URL.Redacted(), external.StatusText(resp.StatusCode), said)
}

// dress sets the request's headers, and returns the secrets among their values, the longest first.
func (h HTTP) dress(req *http.Request) (secrets []string, err error) {
	set := func(name, value string) {
		if http.CanonicalHeaderKey(name) == "Host" {
			req.Host = value
			return
		}
		req.Header.Set(name, value)
	}
	for name, value := range h.Headers {
		set(name, value)
	}
	for name, path := range h.HeaderFiles {
		value, err := external.ReadCredential(path)
		if err != nil {
			return nil, fmt.Errorf("header_files: %w", err)
		}
		set(name, value)
		secrets = append(secrets, value)
	}
	if h.BearerTokenFile != "" {
		token, err := external.ReadCredential(h.BearerTokenFile)
		if err != nil {
			return nil, fmt.Errorf("bearer_token_file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		secrets = append(secrets, token)
	}
	if h.BasicAuthFile != "" {
		user, password, err := external.ReadBasic(h.BasicAuthFile)
		if err != nil {
			return nil, fmt.Errorf("basic_auth_file: %w", err)
		}
		req.SetBasicAuth(user, password)
		secrets = append(secrets, base64.StdEncoding.EncodeToString([]byte(user+":"+password)), password)
	}
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return secrets, nil
}
