// SPDX-License-Identifier: Apache-2.0

package login

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
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

	Path    string `hcl:"path,optional" type:"file" required:"yes" of:"token_file" flag:"token-file" doc:"File that holds the token to log in with."`
	Wrapped bool   `hcl:"wrapped,optional" of:"token_file" doc:"The file holds a response-wrapping token."`

	RoleIDFile      string `hcl:"role_id_file,optional" type:"file" required:"yes" of:"approle" flag:"role-id-file" doc:"File that holds the role id to log in with."`
	SecretIDFile    string `hcl:"secret_id_file,optional" type:"file" required:"yes" of:"approle" flag:"secret-id-file" doc:"File that holds the secret id."`
	SecretIDWrapped bool   `hcl:"secret_id_wrapped,optional" of:"approle" doc:"The file holds a response-wrapping token."`

	Role      string `hcl:"role,optional" type:"name" required:"with kubernetes" of:"kubernetes, jwt, approle" flag:"kubernetes-role" annotation:"role" doc:"Role to log in as." note:"With approle, whose secret id was wrapped."`
	TokenPath string `hcl:"token_path,optional" type:"file" required:"with jwt" of:"jwt, kubernetes" doc:"File that holds the JWT."`

	CertFile string `hcl:"cert_file,optional" type:"file" required:"yes" of:"cert" flag:"cert-file" doc:"File that holds the client certificate to log in with, PEM."`
	KeyFile  string `hcl:"key_file,optional" type:"file" required:"yes" of:"cert" flag:"key-file" doc:"File that holds the private key of the client certificate, PEM."`
	Name     string `hcl:"name,optional" of:"cert" doc:"Role to log in as. Without it, any that the certificate matches."`
}

// Methods returns all methods.
func Methods() []string { return []string{tokenFile, appRole, kubernetes, jwt, cert} }

// checkFields refuses fields of other methods, and that one is missing which the method needs. The tags of [Settings] say which.
func (s Settings) checkFields(fail func(format string, args ...any)) {
	block := reflect.ValueOf(s)
	var has, strange []string
	for n := 1; n < block.NumField(); n++ { // after the method
		tag, set := block.Type().Field(n).Tag, !block.Field(n).IsZero()
		name, _, _ := strings.Cut(tag.Get("hcl"), ",")
		needed := tag.Get("required") == "yes" || tag.Get("required") == "with "+s.Method
		switch {
		case slices.Contains(strings.Split(tag.Get("of"), ", "), s.Method):
			if has = append(has, name); needed && !set {
				fail("%s is missing; name the %s%s", name, strings.ToLower(tag.Get("doc")[:1]), strings.TrimSuffix(tag.Get("doc")[1:], "."))
			}
		case set:
			strange = append(strange, name)
		}
	}
	for _, name := range strange {
		fail("%s is not a field of this method; take it out (it has %s)", name, strings.Join(has, ", "))
	}
}

// mountForm is a path that is neither cut nor changed on its way in a URL.
var mountForm = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$`)

// Check returns the settings with their defaults, or says all that is wrong with them.
func (s Settings) Check() (Settings, error) {
	if !slices.Contains(Methods(), s.Method) {
		return s, fmt.Errorf("vault: auth %q is not known%s (it is one of %s)", s.Method, usage.DidYouMean(s.Method, Methods()), strings.Join(Methods(), ", "))
	}
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("vault: auth %q: %w", s.Method, fmt.Errorf(format, args...)))
	}
	s.checkFields(fail)
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
