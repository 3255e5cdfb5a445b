// SPDX-License-Identifier: Apache-2.0

package login

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

// The methods.
const (
	tokenFile  = "token_file"
	appRole    = "approle"
	kubernetes = "kubernetes"
	jwt        = "jwt"
	cert       = "cert"
)

// serviceAccountToken is where Kubernetes puts the token of a pod's service account, and keeps it fresh.
const serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // a path

// Settings are an auth block of the configuration: a method, and the fields that it has.
type Settings struct {
	Method string `hcl:"method,label"`
	Mount  string `hcl:"mount,optional" type:"path" default:"name of the method" of:"approle, kubernetes, jwt, cert" annotation:"auth-mount" doc:"Path where the method is enabled, without auth/."`

	Path    string `hcl:"path,optional" type:"file" of:"token_file" flag:"token-file" doc:"File that holds the token to log in with."`
	Wrapped bool   `hcl:"wrapped,optional" of:"token_file" doc:"The file holds a response-wrapping token."`

	RoleIDFile      string `hcl:"role_id_file,optional" type:"file" of:"approle" flag:"role-id-file" doc:"File that holds the role id to log in with."`
	SecretIDFile    string `hcl:"secret_id_file,optional" type:"file" of:"approle" flag:"secret-id-file" doc:"File that holds the secret id."`
	SecretIDWrapped bool   `hcl:"secret_id_wrapped,optional" of:"approle" doc:"The file holds a response-wrapping token."`

	Role      string `hcl:"role,optional" type:"name" of:"kubernetes, jwt, approle" flag:"kubernetes-role" annotation:"role" doc:"Role to log in as." note:"With approle, whose secret id was wrapped."`
	TokenPath string `hcl:"token_path,optional" type:"file" of:"jwt, kubernetes" doc:"File that holds the JWT. kubernetes has a default."`

	CertFile string `hcl:"cert_file,optional" type:"file" of:"cert" flag:"cert-file" doc:"Client certificate to log in with, PEM."`
	KeyFile  string `hcl:"key_file,optional" type:"file" of:"cert" flag:"key-file" doc:"Private key of the client certificate, PEM."`
	Name     string `hcl:"name,optional" of:"cert" doc:"Role to log in as. Without it, any that the certificate matches."`
}

// shape is what a method needs and may have.
type shape struct {
	method    string
	need, may []string
}

var shapes = []shape{
	{tokenFile, []string{"path"}, []string{"wrapped"}},
	{appRole, []string{"role_id_file", "secret_id_file"}, []string{"secret_id_wrapped", "role", "mount"}},
	{kubernetes, []string{"role"}, []string{"token_path", "mount"}},
	{jwt, []string{"token_path"}, []string{"role", "mount"}},
	{cert, []string{"cert_file", "key_file"}, []string{"name", "mount"}},
}

// Methods lists them.
func Methods() []string {
	var all []string
	for _, s := range shapes {
		all = append(all, s.method)
	}
	return all
}

// fields returns the names of the options that are set.
func (s Settings) fields() (set []string) {
	block := reflect.ValueOf(s)
	for n := range block.NumField() {
		if name, isOption := strings.CutSuffix(block.Type().Field(n).Tag.Get("hcl"), ",optional"); isOption && !block.Field(n).IsZero() {
			set = append(set, name)
		}
	}
	return set
}

// mountForm is a path that is neither cut nor changed on its way in a URL.
var mountForm = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$`)

// Check returns the settings with their defaults, or says all that is wrong with them.
func (s Settings) Check() (Settings, error) {
	at := slices.IndexFunc(shapes, func(sh shape) bool { return sh.method == s.Method })
	if at < 0 {
		return s, fmt.Errorf("vault: auth %q is not known%s (it is one of %s)", s.Method, usage.DidYouMean(s.Method, Methods()), strings.Join(Methods(), ", "))
	}
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("vault: auth %q: %w", s.Method, fmt.Errorf(format, args...)))
	}
	set := s.fields()
	for _, name := range shapes[at].need {
		if !slices.Contains(set, name) {
			fail("%s is missing; %s", name, remedies[name])
		}
	}
	takes := slices.Concat(shapes[at].need, shapes[at].may)
	for _, name := range set {
		if !slices.Contains(takes, name) {
			fail("%s is not a field of this method; take it out (it has %s)", name, strings.Join(takes, ", "))
		}
	}
	if s.Method == appRole && s.Role != "" && !s.SecretIDWrapped {
		fail("role is for secret_id_wrapped = true: it says whose secret id is to be in the wrapping; set that, or take role out")
	}
	if s.Mount = strings.Trim(s.Mount, "/"); s.Mount == "" {
		s.Mount = s.Method
	}
	if strings.HasPrefix(s.Mount, "auth/") {
		fail("mount = %q begins with auth/; write it without, as in \"%s\"", s.Mount, s.Method)
	} else if !mountForm.MatchString(s.Mount) || strings.Contains(s.Mount, "..") {
		fail("mount = %q is not a path of Vault's; write where the method is enabled, as in \"%s\"", s.Mount, s.Method)
	}
	if s.Method == kubernetes && s.TokenPath == "" {
		s.TokenPath = serviceAccountToken
	}
	return s, errors.Join(errs...)
}

var remedies = map[string]string{ //nolint:gosec // names of fields, and what to do
	"path":           "name the file that holds the token",
	"role_id_file":   "name the file that holds the role id",
	"secret_id_file": "name the file that holds the secret id",
	"role":           "name the role to log in as",
	"token_path":     "name the file that holds the JWT",
	"cert_file":      "name the file that holds the client certificate, PEM",
	"key_file":       "name the file that holds the client certificate's private key, PEM",
}
