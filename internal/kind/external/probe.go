// SPDX-License-Identifier: Apache-2.0

package external

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

const (
	optionURL     = "verify_url"
	optionHeader  = "verify_header"
	optionFormat  = "verify_format"
	optionMethod  = "verify_method"
	optionCA      = "verify_ca"
	optionTimeout = "verify_timeout"

	placeholder = "{{value}}"
	minTimeout  = 100 * time.Millisecond
	maxTimeout  = 50 * time.Second // the engine gives a call a minute
)

var verifyFields = []kind.Field{
	{Name: optionURL, Description: "Where a new value is tried before any workload gets it, http or https: an answer of 2xx says that it is valid. Empty: values are not tried."},
	{Name: optionHeader, Default: "Authorization", Description: "The header in which the value is sent there."},
	{Name: optionFormat, Default: "Bearer " + placeholder, Public: publicFormat, Description: "What stands in the header, with " + placeholder + " once where the value goes."},
	{Name: optionMethod, Default: http.MethodGet, Description: "The method of the request: GET, HEAD or POST (with an empty body)."},
	{Name: optionCA, Description: "Certificates in PEM that the server's is checked against, in the place of the system's."},
	{Name: optionTimeout, Default: "10s", Description: "How long the answer may take, from 100ms to 50s."},
}

// publicFormat returns a format as a journal may keep it: one without the placeholder may hold the value in its place.
func publicFormat(text string) string {
	if !strings.Contains(text, placeholder) {
		return kind.Hidden
	}
	return kind.PublicText(optionFormat, text)
}

// probe is the request that tries a value.
type probe struct {
	url     *url.URL // nil: nothing is tried
	header  string
	before  string // the value, in the header
	after   string
	method  string
	roots   *x509.CertPool // nil: the system's
	timeout time.Duration
}

// readProbe reads normalized options, or ones to be normalized. The error names the option.
func readProbe(options kind.Options) (p probe, err error) {
	if p.url, err = readURL(options[optionURL]); err != nil {
		return p, err
	}
	p.header = options[optionHeader]
	if err := checkHeader(p.header); err != nil {
		return p, err
	}
	format := options[optionFormat]
	if strings.Count(format, placeholder) != 1 {
		return p, fmt.Errorf("%s does not hold %s exactly once; write it where the value goes, as in Bearer %[2]s", optionFormat, placeholder) // nor is it quoted: see publicFormat
	}
	if !sendable(format) {
		return p, fmt.Errorf("%s %s holds a line break or a control character, which no header carries", optionFormat, kind.Quote(format))
	}
	p.before, p.after, _ = strings.Cut(format, placeholder)
	p.method = options[optionMethod]
	if !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost}, p.method) {
		return p, fmt.Errorf("%s %s is not known; use GET, HEAD or POST", optionMethod, kind.Quote(p.method))
	}
	if pem := options[optionCA]; pem != "" {
		if p.url == nil || p.url.Scheme != "https" {
			return p, fmt.Errorf("%s is set and %s is not https; set both or neither", optionCA, optionURL)
		}
		p.roots = x509.NewCertPool()
		if !p.roots.AppendCertsFromPEM([]byte(pem)) {
			return p, fmt.Errorf("%s holds no certificate in PEM; write it from a file with %s=@ca.pem", optionCA, optionCA)
		}
	}
	p.timeout, err = time.ParseDuration(options[optionTimeout])
	if err != nil || p.timeout < minTimeout || p.timeout > maxTimeout {
		return p, fmt.Errorf("%s %s is not a duration from %v to %v, such as 10s", optionTimeout, kind.Quote(options[optionTimeout]), duration.Text(minTimeout), duration.Text(maxTimeout))
	}
	return p, nil
}

// readURL returns nil for an empty text. Errors do not quote it: somebody may have put a secret in.
func readURL(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%s is not a URL of the form https://host/path", optionURL)
	case u.User != nil:
		return nil, fmt.Errorf("%s holds a user or a password, which anybody who reads the key would see; only the value is sent, in %s", optionURL, optionHeader)
	case u.Fragment != "":
		return nil, fmt.Errorf("%s holds a '#', and what follows it is not sent; leave it out", optionURL)
	case strings.Contains(text, placeholder):
		return nil, fmt.Errorf("%s holds %s; a value is sent in a header only, since servers log URLs", optionURL, placeholder)
	}
	return u, nil
}

// unfit are headers that net/http writes itself, or that say how to read the request.
var unfit = []string{"Connection", "Content-Length", "Expect", "Host", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// checkHeader wants a token as in RFC 9110, section 5.6.2.
func checkHeader(name string) error {
	for _, c := range name {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", c) {
			return fmt.Errorf("%s %s is not the name of a header; use letters, digits and '-'", optionHeader, kind.Quote(name))
		}
	}
	if name == "" || slices.Contains(unfit, http.CanonicalHeaderKey(name)) {
		return fmt.Errorf("%s %q cannot carry a value; use Authorization or a header such as X-Api-Key", optionHeader, name)
	}
	return nil
}

// sendable reports whether a header can carry a text.
func sendable(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

// check refuses a value that cannot be sent.
func (p probe) check(value string) (warnings []string, err error) {
	if p.url == nil {
		return nil, nil
	}
	if !sendable(value) {
		return nil, errors.New("value holds a control character, which no header carries, so that it cannot be tried")
	}
	if p.url.Scheme == "http" && !kind.IsLoopback(p.url.Hostname()) {
		warnings = append(warnings, optionURL+" is http: the value crosses the network in the clear when it is tried")
	}
	return warnings, nil
}

// where names the URL without its query, which may hold a secret.
func (p probe) where() string { return p.url.Scheme + "://" + p.url.Host + p.url.EscapedPath() }
