// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// real is a Vault that speaks TLS, with the methods enabled.
type real struct {
	t         *testing.T
	vault     *bed.Vault
	authority *bed.Authority
	dir       string
	signer    *ecdsa.PrivateKey // of JWTs
}

// TestRealVault holds what is about a real Vault, of which one is enough.
func TestRealVault(t *testing.T) {
	b := bed.ForTest(t)
	v, err := b.Vault(t.Context(), bed.VaultOptions{Durable: true, TLS: true, NoMount: true})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := b.Authority()
	if err != nil {
		t.Fatal(err)
	}
	r := &real{t: t, vault: v, authority: authority}
	r.setUp()
	for name, test := range map[string]func(*real){
		"service account":             (*real).serviceAccount,
		"jwt":                         (*real).jwt,
		"certificate":                 (*real).certificate,
		"certificate of the listener": (*real).clientCertificate,
		"approle":                     (*real).appRole,
		"refused":                     (*real).refusedLogins,
		"wrapped secret id":           (*real).wrappedSecretID,
		"wrapped by somebody else":    (*real).otherOrigin,
		"wrapped, answer lost":        (*real).lostUnwrapping,
		"wrapped token":               (*real).wrappedToken,
		"tokens":                      (*real).tokens,
		"revoked":                     (*real).revoked,
	} {
		t.Run(name, func(t *testing.T) {
			test(&real{t, v, authority, t.TempDir(), r.signer})
		})
	}
	t.Run("sealed", func(t *testing.T) { (&real{t, v, authority, t.TempDir(), r.signer}).sealed() }) // last: it ends the server
}

func (r *real) write(path string, data map[string]any) *api.Secret {
	r.t.Helper()
	secret, err := r.vault.Client.Logical().WriteWithContext(r.t.Context(), path, data)
	if err != nil {
		r.t.Fatal(err)
	}
	return secret
}

// wrap is write with a response that is wrapped: it returns the wrapping token.
func (r *real) wrap(path string, data map[string]any) string {
	r.t.Helper()
	v, err := r.vault.Client.Clone()
	if err != nil {
		r.t.Fatal(err)
	}
	v.SetToken(r.vault.Token)
	v.SetWrappingLookupFunc(func(string, string) string { return "5m" })
	secret, err := v.Logical().WriteWithContext(r.t.Context(), path, data)
	if err != nil {
		r.t.Fatal(err)
	}
	return secret.WrapInfo.Token
}

func (r *real) setUp() {
	for path, kind := range map[string]string{"kubernetes": "jwt", "jwt": "jwt", "cert": "cert", "approle": "approle"} {
		r.write("sys/auth/"+path, map[string]any{"type": kind})
	}
	var err error
	if r.signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		r.t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(r.signer.Public())
	if err != nil {
		r.t.Fatal(err)
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	for _, mount := range []string{"kubernetes", "jwt"} {
		r.write("auth/"+mount+"/config", map[string]any{"jwt_validation_pubkeys": public, "default_role": "other"})
		for role, subject := range map[string]string{"api": "system:serviceaccount:hyvve:api", "other": "other"} {
			r.write("auth/"+mount+"/role/"+role, map[string]any{
				"role_type": "jwt", "bound_audiences": "vault", "user_claim": "sub", "bound_subject": subject, "token_ttl": "1h", "token_policies": role,
			})
		}
	}
	ca, err := os.ReadFile(r.authority.File)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		r.write("auth/cert/certs/"+name, map[string]any{"certificate": string(ca), "allowed_common_names": name, "token_ttl": "1h", "token_policies": name})
	}
	for _, role := range []string{"api", "web"} {
		r.write("auth/approle/role/"+role, map[string]any{"token_policies": role, "token_ttl": "1h"})
	}
}

// token makes a JWT as Kubernetes signs them for pods.
func (r *real) token(subject string, ends time.Time) string {
	part := func(fields map[string]any) string {
		text, err := json.Marshal(fields)
		if err != nil {
			r.t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := part(map[string]any{"alg": "ES256", "typ": "JWT"}) + "." + part(map[string]any{
		"sub": subject, "aud": []string{"vault"}, "iat": time.Now().Add(-time.Hour).Unix(), "nbf": time.Now().Add(-time.Hour).Unix(), "exp": ends.Unix(),
	})
	sum := sha256.Sum256([]byte(signed))
	x, y, err := ecdsa.Sign(rand.Reader, r.signer, sum[:])
	if err != nil {
		r.t.Fatal(err)
	}
	signature := make([]byte, 64)
	x.FillBytes(signature[:32])
	y.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (r *real) file(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r *real) connect(change func(*Address)) *Connection {
	r.t.Helper()
	a := Address{URL: r.vault.Addr, CACert: r.authority.File}
	if change != nil {
		change(&a)
	}
	c, err := Connect(a)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *real) method(s Settings) *Method {
	r.t.Helper()
	checked, err := s.Check()
	if err != nil {
		r.t.Fatal(err)
	}
	return New(checked)
}

// in logs in, and returns the policies that the token has.
func (r *real) in(m *Method, c *Connection) (Token, string) {
	r.t.Helper()
	token, err := m.Login(r.t.Context(), c)
	if err != nil {
		r.t.Fatal(err)
	}
	self, err := c.Vault.Auth().Token().LookupSelfWithContext(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	policies, err := self.TokenPolicies()
	if err != nil {
		r.t.Fatal(err)
	}
	return token, strings.Join(policies, ",")
}

// out is a login that must fail.
func (r *real) out(m *Method, c *Connection, kind error, wants ...string) {
	r.t.Helper()
	_, err := m.Login(r.t.Context(), c)
	if err == nil {
		r.t.Fatal("it logs in")
	}
	if kind != nil && !errors.Is(err, kind) || kind == nil && (errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrDenied)) {
		r.t.Errorf("want %v: %v", kind, err)
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			r.t.Errorf("no %q in: %v", want, err)
		}
	}
}

// The request is that of the method of Kubernetes, role and jwt to auth/kubernetes/login; what verifies it here is the jwt
// method, mounted in its place, whose tokens may be of any age. TestRealServiceAccount has the method itself.
func (r *real) serviceAccount() {
	path := r.file("token", r.token("system:serviceaccount:hyvve:api", time.Now().Add(-30*time.Minute)))
	m, c := r.method(Settings{Method: "kubernetes", Role: "api", TokenPath: path}), r.connect(nil)
	r.out(m, c, client.ErrDenied, "expired")
	r.file("token", r.token("system:serviceaccount:hyvve:api", time.Now().Add(time.Hour))) // as the kubelet does
	token, policies := r.in(m, c)
	if policies != "api,default" || token.TTL != time.Hour || !token.Renewable || time.Until(token.Ends) > time.Hour {
		r.t.Errorf("%+v, policies %s", token, policies)
	}
	renewed, err := Renew(r.t.Context(), c)
	if err != nil || renewed.TTL != time.Hour {
		r.t.Errorf("renewed: %+v, %v", renewed, err)
	}
	r.file("token", "two words")
	r.out(m, c, nil, "token_path", "must hold one word")
	if err := os.Remove(path); err != nil {
		r.t.Fatal(err)
	}
	r.out(m, c, nil, "token_path", "no such file")
}

func (r *real) jwt() {
	path := r.file("token", r.token("other", time.Now().Add(time.Hour)))
	if _, policies := r.in(r.method(Settings{Method: "jwt", TokenPath: path}), r.connect(nil)); policies != "default,other" {
		r.t.Errorf("without a role: policies %s", policies)
	}
	r.out(r.method(Settings{Method: "jwt", Role: "api", TokenPath: path}), r.connect(nil), client.ErrDenied)
	r.out(r.method(Settings{Method: "jwt", Mount: "elsewhere", TokenPath: path}), r.connect(nil), client.ErrDenied, "auth/elsewhere/login")
}

// certificateFiles lets the files be those of a certificate of that common name.
func (r *real) certificateFiles(name string) (certFile, keyFile string) {
	r.t.Helper()
	c, err := r.authority.Client(name)
	if err != nil {
		r.t.Fatal(err)
	}
	for from, to := range map[string]string{c.CertFile: "cert.pem", c.KeyFile: "key.pem"} {
		data, err := os.ReadFile(from)
		if err != nil {
			r.t.Fatal(err)
		}
		r.file(to, string(data))
	}
	return filepath.Join(r.dir, "cert.pem"), filepath.Join(r.dir, "key.pem")
}

func (r *real) certificate() {
	certFile, keyFile := r.certificateFiles("one")
	m := r.method(Settings{Method: "cert", CertFile: certFile, KeyFile: keyFile})
	c := r.connect(func(a *Address) { a.ClientCert, a.ClientKey = certFile, keyFile })
	if _, policies := r.in(m, c); policies != "default,one" {
		r.t.Errorf("policies %s", policies)
	}
	if _, err := Renew(r.t.Context(), c); err != nil { // which needs the certificate, too
		r.t.Error(err)
	}
	r.certificateFiles("two") // another one in its place: the connection that was open has the first
	if _, policies := r.in(m, c); policies != "default,two" {
		r.t.Errorf("after a rotation of the files: policies %s", policies)
	}
	named := r.method(Settings{Method: "cert", CertFile: certFile, KeyFile: keyFile, Name: "one"})
	r.out(named, c, client.ErrDenied)
	r.file("key.pem", "rubbish")
	r.out(m, c, nil, "cert.pem", "key.pem")
}

// A certificate that is only for the connection, whatever the method.
func (r *real) clientCertificate() {
	certFile, keyFile := r.certificateFiles("one")
	c := r.connect(func(a *Address) { a.ClientCert, a.ClientKey, a.ServerName = certFile, keyFile, "localhost" })
	path := r.file("token", r.token("other", time.Now().Add(time.Hour)))
	r.in(r.method(Settings{Method: "jwt", TokenPath: path}), c)
	wrong := r.connect(func(a *Address) { a.ServerName = "elsewhere" })
	r.out(r.method(Settings{Method: "jwt", TokenPath: path}), wrong, client.ErrUnavailable, "elsewhere")
}

func (r *real) roleFile(role string) string {
	r.t.Helper()
	secret, err := r.vault.Client.Logical().ReadWithContext(r.t.Context(), "auth/approle/role/"+role+"/role-id")
	if err != nil {
		r.t.Fatal(err)
	}
	return r.file("role-id", secret.Data["role_id"].(string))
}

func (r *real) appRole() {
	role := r.roleFile("api")
	m := r.method(Settings{Method: "approle", RoleIDFile: role, SecretIDFile: r.file("secret-id", r.write("auth/approle/role/api/secret-id", nil).Data["secret_id"].(string))})
	for range 2 {
		if token, policies := r.in(m, r.connect(nil)); policies != "api,default" || token.TTL != time.Hour {
			r.t.Errorf("%+v, policies %s", token, policies)
		}
	}
	r.write("auth/approle/role/batch", map[string]any{"token_type": "batch", "token_ttl": "10m"})
	m = r.method(Settings{Method: "approle", RoleIDFile: r.roleFile("batch"), SecretIDFile: r.file("secret-id", r.write("auth/approle/role/batch/secret-id", nil).Data["secret_id"].(string))})
	if token, _ := r.in(m, r.connect(nil)); token.Renewable || token.TTL != 10*time.Minute {
		r.t.Errorf("a batch token: %+v", token)
	}
}

func (r *real) wrappedSecretID() {
	settings := Settings{Method: "approle", RoleIDFile: r.roleFile("api"), SecretIDWrapped: true, Role: "api"}
	settings.SecretIDFile = r.file("secret-id", r.wrap("auth/approle/role/api/secret-id", nil))
	m, c := r.method(settings), r.connect(nil)
	for range 2 { // it is unwrapped once, and kept
		if _, policies := r.in(m, c); policies != "api,default" {
			r.t.Errorf("policies %s", policies)
		}
	}
	// A sidecar that was restarted cannot tell that from an interception.
	r.out(r.method(settings), c, client.ErrDenied, "secret_id_file", "A sidecar that was restarted needs a new one", "may have been intercepted", "audit log", "put a new wrapping token")
	r.file("secret-id", r.wrap("auth/approle/role/api/secret-id", nil))
	r.in(m, c)
	r.in(m, c)
	if err := os.Remove(settings.SecretIDFile); err != nil {
		r.t.Fatal(err)
	}
	r.in(m, c)
	// What was unwrapped ends.
	r.write("auth/approle/role/once", map[string]any{"token_policies": "api", "token_ttl": "1h", "secret_id_num_uses": 1})
	once := r.method(Settings{
		Method: "approle", RoleIDFile: r.roleFile("once"), SecretIDWrapped: true, SecretIDFile: r.file("secret-id", r.wrap("auth/approle/role/once/secret-id", nil)),
	})
	r.in(once, c)
	r.out(once, c, client.ErrDenied, "put another wrapping token into secret_id_file")
	r.roleFile("api")
	// Somebody was first.
	stolen := r.wrap("auth/approle/role/api/secret-id", nil)
	if _, err := r.connect(nil).Vault.Logical().UnwrapWithContext(r.t.Context(), stolen); err != nil {
		r.t.Fatal(err)
	}
	r.file("secret-id", stolen)
	r.out(m, c, client.ErrDenied, "may have been intercepted")
	if _, err := m.Login(r.t.Context(), c); strings.Contains(err.Error(), stolen) {
		r.t.Error("the wrapping token is in the error")
	}
}

// A thief who takes a wrapping token out of the file may put one of their own into it, around what they have taken or something
// else.
func (r *real) otherOrigin() {
	settings := Settings{Method: "approle", RoleIDFile: r.roleFile("web"), SecretIDWrapped: true, Role: "web"}
	for what, token := range map[string]string{
		"sys/wrapping/wrap":               r.wrap("sys/wrapping/wrap", map[string]any{"secret_id": "made up"}),
		"auth/approle/role/api/secret-id": r.wrap("auth/approle/role/api/secret-id", nil),
	} {
		settings.SecretIDFile = r.file("secret-id", token)
		r.out(r.method(settings), r.connect(nil), nil, what, "and not a secret id", "find out who wrote the file")
		// It was not unwrapped, and is evidence.
		if secret := r.write("sys/wrapping/lookup", map[string]any{"token": token}); secret.Data["creation_path"] != what {
			r.t.Errorf("%s: %v", what, secret.Data)
		}
	}
	settings.Role = "" // any role's will do, and of the other one the secret id does not fit
	settings.SecretIDFile = r.file("secret-id", r.wrap("auth/approle/role/api/secret-id", nil))
	r.out(r.method(settings), r.connect(nil), client.ErrDenied, "logging in")
}

// The answer that holds the secret id is lost on its way: that is nobody's attack.
func (r *real) lostUnwrapping() {
	settings := Settings{Method: "approle", RoleIDFile: r.roleFile("web"), SecretIDWrapped: true}
	settings.SecretIDFile = r.file("secret-id", r.wrap("auth/approle/role/web/secret-id", nil))
	to, err := url.Parse(r.vault.Addr)
	if err != nil {
		r.t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = &http.Transport{TLSClientConfig: r.authority.TLS()}
	proxy.ModifyResponse = func(resp *http.Response) error {
		if strings.HasSuffix(resp.Request.URL.Path, "/unwrap") {
			return errors.New("cut")
		}
		return nil
	}
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	server := httptest.NewServer(proxy)
	defer server.Close()
	m, c := r.method(settings), r.connect(func(a *Address) { a.URL = server.URL })
	r.out(m, c, client.ErrUnavailable)
	r.out(m, c, client.ErrDenied, "the answer was lost", "put a new wrapping token")
	r.file("secret-id", r.wrap("auth/approle/role/web/secret-id", nil))
	r.in(m, r.connect(nil))
}

func (r *real) wrappedToken() {
	settings := Settings{Method: "token_file", Wrapped: true}
	settings.Path = r.file("token", r.wrap("auth/token/create", map[string]any{"policies": []string{"api"}, "ttl": "1h"}))
	m, c := r.method(settings), r.connect(nil)
	for range 2 {
		if token, policies := r.in(m, c); policies != "api,default" || token.TTL > time.Hour || token.TTL < time.Hour-time.Minute {
			r.t.Errorf("%+v, policies %s", token, policies)
		}
	}
	r.out(r.method(settings), c, client.ErrDenied, "the token may have been intercepted")
	r.file("token", r.wrap("auth/approle/role/api/secret-id", nil))
	r.out(m, c, nil, "and not a token")
}

// What a login and a renewal say of each sort of token.
func (r *real) tokens() {
	for name, c := range map[string]struct {
		create    map[string]any
		renewable bool
		ttl       time.Duration // of the login, at most
		renewed   time.Duration // at most, after that
	}{
		"service":     {map[string]any{"ttl": "1h"}, true, time.Hour, time.Hour},
		"fixed":       {map[string]any{"ttl": "1h", "renewable": false}, false, time.Hour, 0},
		"periodic":    {map[string]any{"period": "30m"}, true, 30 * time.Minute, 30 * time.Minute},
		"with an end": {map[string]any{"ttl": "1h", "explicit_max_ttl": "1h"}, true, time.Hour, time.Hour},
		"batch":       {map[string]any{"type": "batch", "ttl": "20m", "policies": []string{"default"}}, false, 20 * time.Minute, 0},
		"without end": {nil, false, 0, 0},
		"ends soon":   {map[string]any{"ttl": "40m", "explicit_max_ttl": "50m"}, true, 40 * time.Minute, 50 * time.Minute},
	} {
		text := r.vault.Token
		if c.create != nil {
			text = r.write("auth/token/create", c.create).Auth.ClientToken
		}
		conn := r.connect(nil)
		token, _ := r.in(r.method(Settings{Method: "token_file", Path: r.file("token", text)}), conn)
		if token.Renewable != c.renewable || token.TTL > c.ttl || token.TTL < c.ttl-time.Minute || token.Ends.IsZero() != (c.ttl == 0) {
			r.t.Errorf("%s: %+v", name, token)
		}
		if !c.renewable {
			continue
		}
		renewed, err := Renew(r.t.Context(), conn)
		if err != nil || renewed.TTL > c.renewed || renewed.TTL == 0 {
			r.t.Errorf("%s: renewed %+v, %v", name, renewed, err)
		}
	}
}

func (r *real) revoked() {
	text := r.write("auth/token/create", map[string]any{"ttl": "1h"}).Auth.ClientToken
	m, c := r.method(Settings{Method: "token_file", Path: r.file("token", text)}), r.connect(nil)
	r.in(m, c)
	if err := r.vault.Client.Auth().Token().RevokeTreeWithContext(r.t.Context(), text); err != nil {
		r.t.Fatal(err)
	}
	if _, err := Renew(r.t.Context(), c); !errors.Is(err, client.ErrDenied) {
		r.t.Errorf("renewed: %v", err)
	}
	r.out(m, c, client.ErrDenied)
}

func (r *real) sealed() {
	wrapped := r.wrap("auth/approle/role/web/secret-id", nil)
	settings := Settings{Method: "approle", RoleIDFile: r.roleFile("web"), SecretIDWrapped: true, SecretIDFile: r.file("secret-id", wrapped)}
	m, c := r.method(settings), r.connect(nil)
	if err := r.vault.Client.Sys().SealWithContext(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.out(m, c, client.ErrUnavailable, "sealed")
	if err := r.vault.Stop(); err != nil {
		r.t.Fatal(err)
	}
	r.out(m, c, client.ErrUnavailable)
	if err := r.vault.Start(context.WithoutCancel(r.t.Context())); err != nil {
		r.t.Fatal(err)
	}
	r.in(m, c) // the wrapping token was not used up meanwhile
}
