// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

func TestMain(m *testing.M) { bed.Main(m) }

const canary = "canary-secret-value"

// cluster is a namespace of a real API server, with an account that may do what the docs say.
type cluster struct {
	*bed.Kubernetes
	t         *testing.T
	ns        string
	tokenPath string
	client    *Client
}

const account = bed.SecretAccount

func newCluster(t *testing.T, create bool) *cluster {
	t.Helper()
	k, ns := bed.Namespace(t)
	return clusterOf(t, k, ns, create)
}

func clusterOf(t *testing.T, k *bed.Kubernetes, ns string, create bool) *cluster {
	t.Helper()
	c := &cluster{Kubernetes: k, t: t, ns: ns, tokenPath: filepath.Join(t.TempDir(), "token")}
	if err := k.AddSecretAccount(t.Context(), ns, create); err != nil {
		t.Fatal(err)
	}
	c.newToken()
	c.client = &Client{Address: k.URL, CACert: k.CAFile, TokenPath: c.tokenPath}
	return c
}

func (c *cluster) newToken() {
	c.t.Helper()
	token, err := c.Token(c.t.Context(), c.ns, account)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(c.tokenPath, token)
}

func (c *cluster) write(path, text string) {
	c.t.Helper()
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// secret is that of the docs.
func (c *cluster) secret() *Secret {
	return &Secret{Client: c.client, Namespace: c.ns, Name: "metrics-auth"}
}

func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.Kubectl(c.t.Context(), "", append([]string{"-n", c.ns}, args...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// live is the Secret as the administrator sees it.
func (c *cluster) live(name string) (o object) {
	c.t.Helper()
	if err := c.Do(c.t.Context(), http.MethodGet, "/api/v1/namespaces/"+c.ns+"/secrets/"+name, nil, &o); err != nil {
		c.t.Fatal(err)
	}
	return o
}

func texts(pairs ...string) map[string][]byte {
	data := map[string][]byte{}
	for n := 0; n < len(pairs); n += 2 {
		data[pairs[n]] = []byte(pairs[n+1])
	}
	return data
}

// bring makes the Secret hold data, and reports whether pods would read something else.
func bring(ctx context.Context, s *Secret, data map[string][]byte) (bool, error) {
	p, err := s.Prepare(ctx, data)
	if err != nil {
		return false, err
	}
	return p.Commit(ctx)
}

func (c *cluster) brings(s *Secret, want bool, data map[string][]byte) {
	c.t.Helper()
	changed, err := bring(c.t.Context(), s, data)
	if err != nil {
		c.t.Fatal(err)
	}
	if changed != want {
		c.t.Errorf("changed is %v", changed)
	}
}

// refuses wants an error that says all of words, and no value.
func refuses(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Error("it was done")
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
	if strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "Y2FuYXJ5") {
		t.Errorf("the error holds a value: %v", err)
	}
}
