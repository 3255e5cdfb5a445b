// SPDX-License-Identifier: Apache-2.0

package http

import (
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	nethttp "net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// The fields of a connection.
const (
	fieldAPI      = "api_url"
	fieldUsername = "username"
	fieldCA       = "ca"
	fieldTimeout  = "timeout"

	fieldAuthHeader = "auth_header"
	fieldAuthFormat = "auth_format"

	fieldCreateMethod = "create_method"
	fieldCreatePath   = "create_path"
	fieldCreateBody   = "create_body"
	fieldCreateID     = "create_id"
	fieldCreateValue  = "create_value"

	fieldListPath   = "list_path"
	fieldListItems  = "list_items"
	fieldListID     = "list_id"
	fieldListLabel  = "list_label"
	fieldListNext   = "list_next"
	fieldListCursor = "list_cursor"

	fieldRevokeMethod = "revoke_method"
	fieldRevokePath   = "revoke_path"
	fieldRevokeBody   = "revoke_body"

	fieldVerifyURL    = "verify_url"
	fieldVerifyMethod = "verify_method"
	fieldVerifyPath   = "verify_path"
	fieldVerifyHeader = "verify_header"
	fieldVerifyFormat = "verify_format"
)

// fields are those of a connection. None but the timeout is harmless: each decides what is sent with the password, or what is
// revoked.
var fields = []kind.Field{
	{Name: fieldAPI, Description: "The URL of the provider's API, such as https://api.example.com. Paths are below it. http is for this machine only."},
	{Name: kind.FieldPassword, Secret: true, Description: "The administrative token of the provider, which may make, list and revoke values."},
	{Name: fieldUsername, Description: "The user of {{basic}} in auth_format."},
	{Name: fieldAuthHeader, Default: "Authorization", Description: "The header in which the password is sent."},
	{Name: fieldAuthFormat, Default: "Bearer {{password}}", Public: publicTemplate(placePassword, placeBasic), Description: "What stands in that header: {{password}}, or {{basic}} for username and password as HTTP's Basic scheme has them."},
	{Name: fieldCreateMethod, Default: nethttp.MethodPost, Description: "The method of the request that makes a value: POST, PUT or GET."},
	{Name: fieldCreatePath, Description: "The path of that request. Placeholders: {{label}}, {{key}}, {{parameter.NAME}}."},
	{Name: fieldCreateBody, Description: "The body of that request, with the same placeholders: JSON if it begins with '{' or '[', otherwise a form."},
	{Name: fieldCreateID, Default: "id", Description: "Where in the answer's JSON the id of the value is, with dots between, such as data.id or keys.0.id."},
	{Name: fieldCreateValue, Default: "token", Description: "Where in the answer's JSON the value is."},
	{Name: fieldListPath, Description: "The path of a GET request that lists the values there are. Placeholders: {{key}}, {{parameter.NAME}}."},
	{Name: fieldListItems, Description: "Where in the answer's JSON the list is. Empty: the answer is the list."},
	{Name: fieldListID, Description: "Where in an entry of the list the id is. Default: as in create_id, its last name."},
	{Name: fieldListLabel, Description: "Where in an entry of the list the name is that create_body has set to {{label}}. Empty: values have no names; then only values of one key may be listed, and one that was lost has to be revoked by hand."},
	{Name: fieldListNext, Description: "Where in the answer's JSON the cursor of the next page is. A Link header with rel=next is followed without this."},
	{Name: fieldListCursor, Default: "cursor", Description: "The parameter of the query that takes that cursor."},
	{Name: fieldRevokeMethod, Default: nethttp.MethodDelete, Description: "The method of the request that revokes a value: DELETE, POST, PUT or GET."},
	{Name: fieldRevokePath, Description: "The path of that request. Placeholders: {{id}}, {{key}}, {{parameter.NAME}}. An answer of 404 or 410 says that the value is gone."},
	{Name: fieldRevokeBody, Description: "The body of that request, with the same placeholders: JSON if it begins with '{' or '[', otherwise a form."},
	{Name: fieldVerifyURL, Description: "The URL of the API that takes the values, if it is another one than api_url."},
	{Name: fieldVerifyMethod, Default: nethttp.MethodGet, Description: "The method of the request that tries a value: GET, HEAD or POST."},
	{Name: fieldVerifyPath, Description: "The path of that request: an answer of 2xx says that the value is valid, 401 or 403 that it is not. Placeholders: {{key}}, {{parameter.NAME}}."},
	{Name: fieldVerifyHeader, Default: "Authorization", Description: "The header in which the value is sent there."},
	{Name: fieldVerifyFormat, Default: "Bearer {{value}}", Public: publicTemplate(placeValue, placeBasic), Description: "What stands in that header: {{value}}, or {{basic}} for id and value as HTTP's Basic scheme has them."},
	{Name: fieldCA, Description: "Certificates in PEM that the servers' are checked against, in the place of the system's."},
	{Name: fieldTimeout, Default: "10s", Harmless: true, Description: "How long each answer may take, from 100ms to 30s."},
	{Name: kind.FieldAllowedHosts, Description: "Hosts with private addresses that may be called all the same, with commas between: names, *.domain, IP addresses and networks, each with :port or for any port."},
}

// ConnectionFields implements kind.Connector.
func (Kind) ConnectionFields() []kind.Field { return slices.Clone(fields) }

// NormalizeConnection implements kind.Connector.
func (Kind) NormalizeConnection(c kind.Connection) (kind.Connection, error) {
	c, err := c.WithDefaults(fields)
	if err != nil {
		return c, err
	}
	for _, f := range []string{fieldCreateMethod, fieldRevokeMethod, fieldVerifyMethod} {
		c.Options[f] = strings.ToUpper(c.Options[f])
	}
	if c.Options[fieldListID] == "" {
		names := strings.Split(c.Options[fieldCreateID], ".")
		c.Options[fieldListID] = names[len(names)-1]
	}
	if _, err := readAPI(c); err != nil {
		return c, err
	}
	if password := c.Secrets[kind.FieldPassword]; password.Empty() || !printable(password.Reveal()) {
		return c, fmt.Errorf("%s is empty, or holds a control character, which no header carries; write the provider's administrative token, with %s=- from standard input", kind.FieldPassword, kind.FieldPassword)
	}
	return c, nil
}

// api is a provider as its connection describes it.
type api struct {
	base, verifyBase *url.URL
	roots            *x509.CertPool // nil: the system's
	timeout          time.Duration
	allowed          kind.Hosts

	authHeader, verifyHeader                 string
	authFormat, verifyFormat                 template
	createMethod, revokeMethod, verifyMethod string
	createPath, listPath, revokePath         template
	createBody, revokeBody                   template
	verifyPath                               template
	createID, createValue                    path
	listItems, listID, listLabel, listNext   path
	listCursor                               string
	username                                 string
}

// readAPI reads the options of a connection. Errors name the field.
func readAPI(c kind.Connection) (a api, err error) {
	o := c.Options
	a.username, a.listCursor = o[fieldUsername], o[fieldListCursor]
	for _, read := range []func() error{
		func() (err error) { a.base, err = readBase(fieldAPI, o[fieldAPI]); return err },
		func() (err error) {
			if a.verifyBase = a.base; o[fieldVerifyURL] != "" {
				a.verifyBase, err = readBase(fieldVerifyURL, o[fieldVerifyURL])
			}
			return err
		},
		func() error { return a.readRequests(o) },
		func() error { return a.readHeaders(o) },
		func() error { return a.readPaths(o) },
		func() error { return a.readTransport(c) },
	} {
		if err := read(); err != nil {
			return a, err
		}
	}
	return a, nil
}

// readBase reads the URL of an API. Errors do not quote it: somebody may have put a secret in.
func readBase(field, text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return nil, fmt.Errorf("%s is empty; write the URL of the provider's API, such as https://api.example.com", field)
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(text, "{{"):
		return nil, fmt.Errorf("%s is not a URL of the form https://host or https://host/path", field)
	case u.User != nil:
		return nil, fmt.Errorf("%s holds a user or a password, which anybody who reads the connection would see; write them as %s and %s", field, fieldUsername, kind.FieldPassword)
	case u.Scheme == "http" && !kind.IsLoopback(u.Hostname()):
		return nil, fmt.Errorf("%s is http, so that secrets would cross the network in the clear; use https", field)
	}
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), ""
	return u, nil
}

func (a *api) readRequests(o kind.Options) (err error) {
	for _, of := range []struct {
		into  *template
		read  func(field, text string, names ...string) (template, error)
		field string
		names []string
	}{
		{&a.createPath, readPath, fieldCreatePath, []string{placeLabel, placeKey, placeParam}},
		{&a.createBody, readBody, fieldCreateBody, []string{placeLabel, placeKey, placeParam}},
		{&a.listPath, readPath, fieldListPath, []string{placeKey, placeParam}},
		{&a.revokePath, readPath, fieldRevokePath, []string{placeID, placeKey, placeParam}},
		{&a.revokeBody, readBody, fieldRevokeBody, []string{placeID, placeKey, placeParam}},
		{&a.verifyPath, readPath, fieldVerifyPath, []string{placeKey, placeParam}},
	} {
		if *of.into, err = of.read(of.field, o[of.field], of.names...); err != nil {
			return err
		}
	}
	for _, of := range []struct {
		into    *string
		field   string
		methods []string
	}{
		{&a.createMethod, fieldCreateMethod, []string{"POST", "PUT", "GET"}},
		{&a.revokeMethod, fieldRevokeMethod, []string{"DELETE", "POST", "PUT", "GET"}},
		{&a.verifyMethod, fieldVerifyMethod, []string{"GET", "HEAD", "POST"}},
	} {
		if *of.into = o[of.field]; !slices.Contains(of.methods, *of.into) {
			return fmt.Errorf("%s %s is not known; use one of: %s", of.field, kind.Quote(*of.into), strings.Join(of.methods, ", "))
		}
	}
	switch {
	case !a.revokePath.has(placeID) && !a.revokeBody.has(placeID):
		return fmt.Errorf("neither %s nor %s holds {{%s}}, so that no request would say which value is to be revoked", fieldRevokePath, fieldRevokeBody, placeID)
	case o[fieldListLabel] != "" && !a.createPath.has(placeLabel) && !a.createBody.has(placeLabel):
		return fmt.Errorf("%s is set, and neither %s nor %s holds {{%s}}, so that a value which was lost would not be found by its name", fieldListLabel, fieldCreatePath, fieldCreateBody, placeLabel)
	}
	return nil
}

func (a *api) readHeaders(o kind.Options) (err error) {
	a.authHeader, a.verifyHeader = o[fieldAuthHeader], o[fieldVerifyHeader]
	for _, field := range []string{fieldAuthHeader, fieldVerifyHeader} {
		if err := checkHeader(field, o[field]); err != nil {
			return err
		}
	}
	if a.authFormat, err = readTemplate(fieldAuthFormat, o[fieldAuthFormat], placePassword, placeBasic); err != nil {
		return err
	}
	if a.verifyFormat, err = readTemplate(fieldVerifyFormat, o[fieldVerifyFormat], placeValue, placeBasic); err != nil {
		return err
	}
	switch {
	case !a.authFormat.has(placePassword) && !a.authFormat.has(placeBasic):
		return fmt.Errorf("%s holds neither {{%s}} nor {{%s}}; write it as Bearer {{%s}}", fieldAuthFormat, placePassword, placeBasic, placePassword)
	case !a.verifyFormat.has(placeValue) && !a.verifyFormat.has(placeBasic):
		return fmt.Errorf("%s holds neither {{%s}} nor {{%s}}; write it as Bearer {{%s}}", fieldVerifyFormat, placeValue, placeBasic, placeValue)
	case a.authFormat.has(placeBasic) && (a.username == "" || strings.Contains(a.username, ":") || !printable(a.username)):
		return fmt.Errorf("%s is empty, or holds ':' or a control character, which {{%s}} cannot have", fieldUsername, placeBasic)
	}
	return nil
}

// unfit are headers that net/http writes itself, or that say how to read the request.
var unfit = []string{"Connection", "Content-Length", "Content-Type", "Accept", "Expect", "Host", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// checkHeader wants a token as in RFC 9110, section 5.6.2.
func checkHeader(field, name string) error {
	for _, c := range name {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return fmt.Errorf("%s %s is not the name of a header; use letters, digits and '-'", field, kind.Quote(name))
		}
	}
	if slices.Contains(unfit, nethttp.CanonicalHeaderKey(name)) {
		return fmt.Errorf("%s %q cannot carry a secret; use Authorization or a header such as X-Api-Key", field, name)
	}
	return nil
}

func (a *api) readPaths(o kind.Options) (err error) {
	for _, of := range []struct {
		into  *path
		field string
		empty bool
	}{
		{&a.createID, fieldCreateID, false},
		{&a.createValue, fieldCreateValue, false},
		{&a.listItems, fieldListItems, true},
		{&a.listID, fieldListID, false},
		{&a.listLabel, fieldListLabel, true},
		{&a.listNext, fieldListNext, true},
	} {
		if *of.into, err = readJSONPath(of.field, o[of.field], of.empty); err != nil {
			return err
		}
	}
	if !parameterForm.MatchString(a.listCursor) {
		return fmt.Errorf("%s %s is not the name of a parameter; use letters, digits, '-' and '_'", fieldListCursor, kind.Quote(a.listCursor))
	}
	return nil
}

const (
	minTimeout = 100 * time.Millisecond
	maxTimeout = 30 * time.Second // the engine gives a call a minute
)

func (a *api) readTransport(c kind.Connection) (err error) {
	if pem := c.Options[fieldCA]; pem != "" {
		a.roots = x509.NewCertPool()
		if !a.roots.AppendCertsFromPEM([]byte(pem)) {
			return fmt.Errorf("%s holds no certificate in PEM; write it from a file with %s=@ca.pem", fieldCA, fieldCA)
		}
	}
	a.timeout, err = time.ParseDuration(c.Options[fieldTimeout])
	if err != nil || a.timeout < minTimeout || a.timeout > maxTimeout {
		return fmt.Errorf("%s %s is not a duration from %v to %v, such as 10s", fieldTimeout, kind.Quote(c.Options[fieldTimeout]), duration.Text(minTimeout), duration.Text(maxTimeout))
	}
	if a.allowed, err = kind.ParseHosts(c.Options[kind.FieldAllowedHosts]); err != nil {
		return fmt.Errorf("%s: %w", kind.FieldAllowedHosts, err)
	}
	return nil
}

// Servers implements kind.LoginNamer.
func (Kind) Servers(c kind.Connection) []string {
	a, err := readAPI(c)
	if err != nil {
		return nil
	}
	return []string{hostPort(a.base)}
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// Allowed implements kind.Addresser: the connection's own hosts. Keys name none.
func (Kind) Allowed(c kind.Connection) (kind.Hosts, error) {
	a, err := readAPI(c)
	if err != nil {
		return kind.Hosts{}, err
	}
	return kind.HostsOf(hostPort(a.base), hostPort(a.verifyBase)), nil
}

// Leads implements kind.Addresser: keys lead nowhere but to the hosts of their connection.
func (Kind) Leads(kind.Options, key.Value) ([]string, error) { return nil, nil }

// values are what placeholders stand for in requests of a key.
func values(k key.Key) (map[string]string, error) {
	parameters, err := readParameters(k.Options[optionParameters])
	if err != nil {
		return nil, err
	}
	all := map[string]string{placeKey: k.Name}
	for name, value := range parameters {
		all[placeParam+name] = value
	}
	return all, nil
}

// with is values with one more.
func with(values map[string]string, name, value string) map[string]string {
	all := maps.Clone(values)
	all[name] = value
	return all
}
