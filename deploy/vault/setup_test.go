// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func TestMain(m *testing.M) { bed.Main(m) }

// authPlugin is what the kubernetes method is called where it is not built in.
const authPlugin = "vault-plugin-auth-kubernetes"

// people are those whose policies setup.sh writes beside those of workloads.
var people = []string{"viewer", "rotator", "definer", "restorer", "identifier", "monitor", "auditor", "operator"}

var workloads = []string{"api", "agents", "web", "prometheus", "reencryptor"}

// world is a Vault and an API server of Kubernetes that setup.sh makes known to each other.
type world struct {
	t         *testing.T
	vault     *bed.Vault
	cluster   *bed.Kubernetes
	namespace string
	dir       string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	k, ns := bed.Namespace(t)
	v, err := bed.ForTest(t).Vault(t.Context(), bed.VaultOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Makes the plugin known; the script enables it at a path of its own.
	if err := v.KubernetesAuth(t.Context(), k, "elsewhere"); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, vault: v, cluster: k, namespace: ns, dir: t.TempDir()}
	if err := errors.Join(k.ServiceAccount(t.Context(), ns, "reviewer"), k.AllowReviews(t.Context(), ns, "reviewer")); err != nil {
		t.Fatal(err)
	}
	token, err := k.Token(t.Context(), ns, "reviewer")
	if err != nil {
		t.Fatal(err)
	}
	w.file("reviewer", token)
	return w
}

func (w *world) file(name, content string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// script runs setup.sh as an administrator of Vault does.
func (w *world) script(args ...string) (string, error) {
	w.t.Helper()
	binary, err := bed.VaultBinary()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(w.t.Context(), "./setup.sh", args...)
	cmd.Env = []string{"PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH"), "HOME=" + w.dir, "VAULT_ADDR=" + w.vault.Addr, "VAULT_TOKEN=" + w.vault.Token}
	said, err := cmd.CombinedOutput()
	return string(said), err
}

func (w *world) setUp(args ...string) string {
	w.t.Helper()
	said, err := w.script(append(args, "--namespace="+w.namespace, "--workloads="+strings.Join(workloads, ","), "--auth-plugin="+authPlugin)...)
	if err != nil {
		w.t.Fatalf("setup.sh %v: %v\n%s", args, err, said)
	}
	return said
}

// reachable are the flags by which Vault, outside of the cluster, finds the API server.
func (w *world) reachable() []string {
	return []string{"--kubernetes-host=" + w.cluster.URL, "--kubernetes-ca=" + w.cluster.CAFile, "--reviewer-token=" + filepath.Join(w.dir, "reviewer")}
}

func (w *world) write(path string, data map[string]any) *api.Secret {
	w.t.Helper()
	secret, err := w.vault.Client.Logical().WriteWithContext(w.t.Context(), path, data)
	if err != nil {
		w.t.Fatalf("%s: %v", path, err)
	}
	return secret
}

func (w *world) token(account string) string {
	w.t.Helper()
	if err := w.cluster.ServiceAccount(w.t.Context(), w.namespace, account); err != nil {
		w.t.Fatal(err)
	}
	token, err := w.cluster.Token(w.t.Context(), w.namespace, account, bed.VaultAudience)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// as returns a client of Vault with a token of its own.
func (w *world) as(token string) *api.Client {
	w.t.Helper()
	c, err := w.vault.Client.Clone()
	if err != nil {
		w.t.Fatal(err)
	}
	c.SetToken(token)
	return c
}

func (w *world) login(account, role string) (*api.Client, error) {
	w.t.Helper()
	secret, err := w.vault.Client.Logical().WriteWithContext(w.t.Context(), "auth/kubernetes/login", map[string]any{"role": role, "jwt": w.token(account)})
	if err != nil {
		return nil, err
	}
	return w.as(secret.Auth.ClientToken), nil
}

// sidecar runs a real one, that logs in with a token of a service account.
func (w *world) sidecar(name string) *kit.Log {
	w.t.Helper()
	run := filepath.Join(w.dir, name)
	if err := os.Mkdir(run, 0o700); err != nil {
		w.t.Fatal(err)
	}
	path := w.file(name+".hcl", fmt.Sprintf(`
		workload = %[1]q
		instance = "%[1]s-1"
		vault {
			address = %[2]q
			auth "kubernetes" {
				role       = %[1]q
				token_path = %[3]q
			}
		}
		render "dotenv" { path = "%[4]s/.env" }`, name, w.vault.Addr, w.file(name+".token", w.token(name)), run))
	f, err := config.Load(path)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := agent.Check(f)
	if err != nil {
		w.t.Fatal(err)
	}
	log := &kit.Log{}
	a, err := agent.New(c, slog.New(slog.NewJSONHandler(log, nil)))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		// To give its lease back is the last thing that it does, and needs the policy, too.
		if said := log.String(); strings.Contains(said, "permission denied") {
			w.t.Errorf("the sidecar of %s was refused something:\n%s", name, said)
		}
	})
	return log
}

// After setup.sh the sidecars of all workloads log in with their service accounts, and a rotation ends that needs each of them to
// read, to watch and to report. None of them can do more.
func TestPoliciesAreEnoughAndNoWider(t *testing.T) {
	w := newWorld(t)
	w.setUp(w.reachable()...)
	w.write("hyvve/config", map[string]any{"lease_ttl": "1m", "soak": "0s"})
	w.write("hyvve/keys/jwt-secret", map[string]any{"format": "hex", "length": 32, "generate": true})
	for _, name := range workloads {
		w.write("hyvve/workloads/"+name, map[string]any{"presents": "jwt-secret", "min_instances": 1})
	}
	logs := map[string]*kit.Log{}
	for _, name := range workloads {
		logs[name] = w.sidecar(name)
	}

	operator := w.as(w.write("auth/token/create", map[string]any{"policies": []string{"hyvve-operator"}}).Auth.ClientToken)
	engine := client.New(operator, bed.Mount)
	r, err := engine.Rotate(t.Context(), "scenario", "jwt-secret")
	if err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the rotation ends", func() bool {
		now, err := engine.Rotation(t.Context(), r.ID)
		return err == nil && now.State == "done"
	}, func() string {
		var all strings.Builder
		for name, log := range logs {
			fmt.Fprintf(&all, "%s:\n%s\n", name, log.String())
		}
		return all.String()
	})
	w.testOperator(operator)
	for _, name := range workloads {
		w.testWorkload(name)
	}
}

// testWorkload compares all that a workload's token can do in the engine with what it needs.
func (w *world) testWorkload(name string) {
	w.t.Helper()
	c, err := w.login(name, name)
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	want := map[string]string{
		"hyvve/creds/" + name: "read update", "hyvve/watch/" + name: "read", "hyvve/report/" + name: "update", "hyvve/leave/" + name: "update",
		"sys/leases/renew": "update", // by Vault's own default policy
	}
	paths := []string{
		"hyvve/config", "hyvve/keys/jwt-secret", "hyvve/keys/", "hyvve/connections/main", "hyvve/rotate", "hyvve/rotations/x/confirm",
		"hyvve/status", "hyvve/journal/", "hyvve/workloads/" + name, "hyvve/presets/hyvve", "hyvve/creds/" + name + "2",
		"sys/leases/revoke", "sys/leases/revoke-prefix/hyvve", "sys/policies/acl/x", "auth/kubernetes/role/x",
	}
	for _, other := range workloads {
		paths = append(paths, "hyvve/creds/"+other, "hyvve/watch/"+other, "hyvve/report/"+other, "hyvve/leave/"+other)
	}
	for path := range want {
		paths = append(paths, path)
	}
	for _, path := range paths {
		expect := want[path]
		if expect == "" {
			expect = "deny"
		}
		if got, err := c.Sys().CapabilitiesSelfWithContext(w.t.Context(), path); err != nil || !slices.Equal(got, strings.Fields(expect)) {
			w.t.Errorf("%s may %v at %s (%v); want %s", name, got, path, err, expect)
		}
	}
	other := workloads[(slices.Index(workloads, name)+1)%len(workloads)]
	refused := (*api.ResponseError)(nil)
	if _, err := c.Logical().ReadWithContext(w.t.Context(), "hyvve/creds/"+other); !errors.As(err, &refused) || refused.StatusCode != 403 {
		w.t.Errorf("%s reads the keys of %s: %v", name, other, err)
	}
	if _, err := w.login(name, other); err == nil {
		w.t.Errorf("the service account %s logs in as %s", name, other)
	}
}

func (w *world) testOperator(c *api.Client) {
	w.t.Helper()
	ctx := w.t.Context()
	_, err := c.Logical().WriteWithContext(ctx, "hyvve/keys/metrics-api-key", map[string]any{"format": "base64", "length": 32, "generate": true})
	_, errStatus := c.Logical().ReadWithContext(ctx, "hyvve/status")
	_, errJournal := c.Logical().ListWithContext(ctx, "hyvve/journal")
	_, errKeys := c.Logical().ListWithContext(ctx, "hyvve/keys")
	_, errDelete := c.Logical().DeleteWithContext(ctx, "hyvve/keys/metrics-api-key")
	_, errPreset := c.Logical().ReadWithContext(ctx, "hyvve/presets/hyvve")
	if err := errors.Join(err, errStatus, errJournal, errKeys, errDelete, errPreset); err != nil {
		w.t.Errorf("an operator is refused: %v", err)
	}
	for _, path := range []string{"hyvve/creds/api", "hyvve/watch/api", "hyvve/report/api", "sys/leases/revoke", "sys/policies/acl/x", "auth/kubernetes/role/api"} {
		if got, err := c.Sys().CapabilitiesSelfWithContext(ctx, path); err != nil || !slices.Equal(got, []string{"deny"}) {
			w.t.Errorf("an operator may %v at %s (%v)", got, path, err)
		}
	}
}

func TestSetUpAgain(t *testing.T) {
	w := newWorld(t)
	said := w.setUp(append(w.reachable(), "--dry-run")...)
	if methods, err := w.vault.Client.Sys().ListAuthWithContext(t.Context()); err != nil || methods["kubernetes/"] != nil {
		t.Errorf("--dry-run has enabled the method (%v)", err)
	}
	if !strings.Contains(said, "vault policy write hyvve-api -") || !strings.Contains(said, "vault write auth/kubernetes/role/api") {
		t.Errorf("--dry-run says:\n%s", said)
	}
	if token, err := os.ReadFile(filepath.Join(w.dir, "reviewer")); err != nil || strings.Contains(said, string(token)) {
		t.Errorf("--dry-run shows the token (%v)", err)
	}

	w.setUp(w.reachable()...)
	before := w.state()
	again := w.setUp()
	if strings.Contains(again, "writing policy") || !strings.Contains(again, "stays configured as it is") {
		t.Errorf("a second run says:\n%s", again)
	}
	if after := w.state(); after != before {
		t.Errorf("a second run has changed\n%s\nto\n%s", before, after)
	}
	w.write("sys/policies/acl/hyvve-api", map[string]any{"policy": `path "hyvve/*" { capabilities = ["read"] }`})
	if said := w.setUp(); !strings.Contains(said, "writing policy hyvve-api\n") || w.state() != before {
		t.Errorf("a policy that was changed by hand is not mended:\n%s", said)
	}

	said = w.setUp(append(w.reachable(), "--mount=teams/eu", "--auth-mount=k8s/eu", "--service-account=api=backend", "--audience=eu", "--token-ttl=10m")...)
	policy, err := w.vault.Client.Sys().GetPolicyWithContext(t.Context(), "teams.eu-api")
	if err != nil || !strings.Contains(policy, `"teams/eu/creds/api"`) || strings.Contains(policy, `"hyvve/`) {
		t.Errorf("policy of another mount: %v\n%s\n%s", err, policy, said)
	}
	role, err := w.vault.Client.Logical().ReadWithContext(t.Context(), "auth/k8s/eu/role/api")
	if err != nil || fmt.Sprintf("%v %v %v", role.Data["bound_service_account_names"], role.Data["audience"], role.Data["token_ttl"]) != "[backend] eu 600" {
		t.Errorf("role of another mount: %v, %v", role, err)
	}
}

// state is all that setup.sh is to have made.
func (w *world) state() string {
	w.t.Helper()
	all := map[string]any{}
	for _, name := range append(slices.Clone(people), workloads...) {
		policy, err := w.vault.Client.Sys().GetPolicyWithContext(w.t.Context(), "hyvve-"+name)
		if err != nil {
			w.t.Fatal(err)
		}
		all["policy "+name] = policy
		if role, err := w.vault.Client.Logical().ReadWithContext(w.t.Context(), "auth/kubernetes/role/"+name); err != nil {
			w.t.Fatal(err)
		} else if role != nil {
			all["role "+name] = role.Data
		}
	}
	config, err := w.vault.Client.Logical().ReadWithContext(w.t.Context(), "auth/kubernetes/config")
	if err != nil || config == nil {
		w.t.Fatalf("auth/kubernetes/config: %v", err)
	}
	all["config"] = config.Data
	quota, err := w.vault.Client.Logical().ReadWithContext(w.t.Context(), "sys/quotas/rate-limit/hyvve")
	if err != nil || quota == nil || fmt.Sprintf("%v %v", quota.Data["rate"], quota.Data["path"]) != "1000 hyvve/" {
		w.t.Fatalf("quota: %v %v", quota, err)
	}
	all["quota"] = quota.Data
	text, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

func TestSetUpRefuses(t *testing.T) {
	v, err := bed.ForTest(t).Vault(t.Context(), bed.VaultOptions{NoMount: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Client.Sys().EnableAuthWithOptionsWithContext(t.Context(), "kubernetes", &api.EnableAuthOptions{Type: "approle"}); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, vault: v, dir: t.TempDir()}
	w.write("sys/policies/acl/taken-web", map[string]any{"policy": `path "take/creds/n-web" { capabilities = ["read"] }`})
	w.write("sys/policies/acl/spaced-web", map[string]any{"policy": `path  "take/creds/n-web" { capabilities = ["read"] }`})
	w.write("sys/policies/acl/json-web", map[string]any{"policy": `{"path":{"take/creds/n-web":{"capabilities":["read"]}}}`})
	for want, args := range map[string][]string{
		"--namespace is missing":             {},
		"--policies-only sets up nothing of": {"--policies-only", "--namespace=x"},
		`"A" is no name of a namespace`:      {"--namespace=A B"},
		`there is no policy for "billing"`:   {"--namespace=x", "--workloads=api,billing"},
		`there is no policy for "operator"`:  {"--namespace=x", "--workloads=operator"},
		"--workloads is empty":               {"--namespace=x", "--workloads="},
		`"*" is no name of a workload`:       {"--namespace=x", "--workloads=api,*"},
		"write WORKLOAD=NAME":                {"--namespace=x", "--service-account=api"},
		"web is none of --workloads=api":     {"--namespace=x", "--workloads=api", "--service-account=web=x"},
		"write it without auth/":             {"--namespace=x", "--auth-mount=auth/kubernetes"},
		"is no path of an engine":            {"--namespace=x", "--mount=a.b"},
		"mount the engine at hyvve":          {"--namespace=x", "--mount=Hyvve"},
		"policy taken-web is there":          {"--namespace=x", "--mount=taken"},
		"policy spaced-web is there":         {"--namespace=x", "--mount=spaced"},
		"policy json-web is there":           {"--namespace=x", "--mount=json"},
		"is no duration":                     {"--namespace=x", "--token-ttl=soon"},
		"is no number of requests":           {"--namespace=x", "--rate-limit=many"},
		"is no number of leases":             {"--namespace=x", "--max-leases=0"},
		`there is no policy for "auditor"`:   {"--namespace=x", "--workloads=auditor"},
		"is no URL of an API server":         {"--namespace=x", "--kubernetes-host=10.0.0.1"},
		"belong to --kubernetes-host":        {"--namespace=x", "--kubernetes-ca=setup.sh"},
		"/nowhere cannot be read":            {"--namespace=x", "--kubernetes-host=https://k", "--kubernetes-ca=/nowhere"},
		"is no flag of this script":          {"--namespace=x", "--verbose"},
		"is of type approle, not kubernetes": {"--namespace=x"},
	} {
		said, err := w.script(args...)
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || !strings.Contains(said, want) {
			t.Errorf("setup.sh %v: %v: %s\nwant %q", args, err, said, want)
		}
	}
	if roles, err := v.Client.Logical().ListWithContext(t.Context(), "auth/kubernetes/role"); err != nil || roles != nil {
		t.Errorf("a refused run has made roles: %v, %v", roles, err)
	}
	if said, err := w.script("--help"); err != nil || !strings.HasPrefix(said, "usage: setup.sh") {
		t.Errorf("--help: %v: %s", err, said)
	}
	w.write("sys/policies/acl/blind", map[string]any{"policy": `path "sys/policies/acl/*" { capabilities = ["create", "update"] }`})
	blind, err := v.Client.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"blind"}})
	if err != nil {
		t.Fatal(err)
	}
	v.Token = blind.Auth.ClientToken
	if said, err := w.script("--namespace=x"); err == nil || !strings.Contains(said, "cannot be read, so that nobody knows whose it is") {
		t.Errorf("with a token that may not read policies: %v: %s", err, said)
	}
	v.Token = "no-token-of-this-vault"
	if said, err := w.script("--namespace=x"); err == nil || !strings.Contains(said, "Vault does not know who you are") {
		t.Errorf("with a wrong token: %v: %s", err, said)
	}
}
