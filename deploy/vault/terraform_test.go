// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// terraform runs the real one, without a network and without a configuration of its own.
func terraform(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	binary, err := exec.LookPath("terraform")
	if err != nil {
		kit.Skip(t, "terraform is not on PATH: what is written for it is parsed, and not run")
	}
	config := filepath.Join(t.TempDir(), "terraformrc")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TF_CLI_CONFIG_FILE=" + config, "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1"}
	said, err := cmd.CombinedOutput()
	return string(said), err
}

// What needs the provider is parsed, and its arguments compared with what the provider's documentation names; the rest is run
// below.
func TestFilesForTerraformParse(t *testing.T) {
	want := map[string][]string{ // beside count, for_each and depends_on, which are Terraform's own
		"vault_policy":                         {"name", "policy"},
		"vault_auth_backend":                   {"path", "type"},
		"vault_quota_lease_count":              {"max_leases", "name", "path"},
		"vault_quota_rate_limit":               {"interval", "name", "path", "rate"},
		"vault_kubernetes_auth_backend_config": {"backend", "disable_local_ca_jwt", "kubernetes_ca_cert", "kubernetes_host", "token_reviewer_jwt"},
		"vault_kubernetes_auth_backend_role": {
			"audience", "backend", "bound_service_account_names", "bound_service_account_namespaces", "role_name", "token_policies", "token_ttl",
		},
	}
	files, err := filepath.Glob("terraform/*.tf")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v: %v", files, err)
	}
	got := map[string][]string{}
	for _, file := range files {
		f, diags := hclparse.NewParser().ParseHCLFile(file)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		body, ok := f.Body.(*hclsyntax.Body)
		if !ok {
			t.Fatalf("%s: %T", file, f.Body)
		}
		for _, b := range body.Blocks {
			if b.Type != "resource" {
				continue
			}
			for name := range b.Body.Attributes {
				if name != "for_each" && name != "depends_on" && name != "count" {
					got[b.Labels[0]] = append(got[b.Labels[0]], name)
				}
			}
			slices.Sort(got[b.Labels[0]])
		}
	}
	for kind, names := range want {
		if !slices.Equal(got[kind], names) {
			t.Errorf("%s: %v; want %v", kind, got[kind], names)
		}
	}
	if len(got) != len(want) {
		t.Errorf("resources: %v", got)
	}
}

func TestTerraformIsFormatted(t *testing.T) {
	if said, err := terraform(t, ".", "fmt", "-check", "-diff", "terraform"); err != nil {
		t.Errorf("terraform fmt: %v\n%s", err, said)
	}
}

// evaluate lets Terraform compute the variables and locals, with nothing that needs a provider.
func evaluate(t *testing.T, variables string) (map[string]string, map[string]struct{ Account, Policy string }) {
	t.Helper()
	dir := withoutProvider(t)
	if said, err := terraform(t, dir, "apply", "-auto-approve", "-input=false", "-no-color", "-var-file="+tfvars(t, variables)); err != nil {
		t.Fatalf("terraform apply: %v\n%s", err, said)
	}
	said, err := terraform(t, dir, "output", "-json")
	if err != nil {
		t.Fatalf("terraform output: %v\n%s", err, said)
	}
	var outputs struct {
		Policies struct{ Value map[string]string }
		Roles    struct {
			Value map[string]struct{ Account, Policy string }
		}
	}
	if err := json.Unmarshal([]byte(said), &outputs); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	return outputs.Policies.Value, outputs.Roles.Value
}

func withoutProvider(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "terraform")
	if err := os.CopyFS(filepath.Join(root, "policies"), os.DirFS("policies")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"variables.tf", "locals.tf"} {
		text, err := os.ReadFile(filepath.Join("terraform", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := "output \"policies\" { value = local.policies }\noutput \"roles\" { value = local.roles }\n"
	if err := os.WriteFile(filepath.Join(dir, "test.tf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := terraform(t, dir, "init", "-input=false"); err != nil {
		t.Fatalf("terraform init: %v\n%s", err, said)
	}
	return dir
}

func tfvars(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.tfvars")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Both ways give the same policies and the same roles.
func TestTerraformAndScriptAgree(t *testing.T) {
	policies, roles := evaluate(t, `
		namespaces = ["hyvve"]
		mount      = "teams/eu"
		workloads  = { api = "backend", agents = null, reencryptor = null }
	`)
	cmd := exec.CommandContext(t.Context(), "./setup.sh", "--dry-run", "--namespace=hyvve", "--mount=teams/eu", "--workloads=api,agents,reencryptor", "--service-account=api=backend")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	said := string(out)
	for name, text := range policies {
		var indented strings.Builder
		for line := range strings.Lines(text) {
			indented.WriteString("  | " + line)
		}
		if !strings.Contains(said, "  vault policy write "+name+" -\n"+indented.String()+"setup: ") {
			t.Errorf("policy %s of Terraform is not one of the script's:\n%s", name, text)
		}
	}
	for name, r := range roles {
		if !strings.Contains(said, "auth/kubernetes/role/"+name+" bound_service_account_names="+r.Account+" ") || !strings.Contains(said, " token_policies="+r.Policy+" ") {
			t.Errorf("role %s of Terraform, %v, is not one of the script's:\n%s", name, r, said)
		}
	}
	if len(policies) != strings.Count(said, "vault policy write") || len(roles) != strings.Count(said, "/role/") {
		t.Errorf("%d policies, %d roles; the script:\n%s", len(policies), len(roles), said)
	}
}

// No two mounts have a policy of the same name, by either way.
func TestTerraformMountsShareNoPolicy(t *testing.T) {
	names := map[string]string{}
	for _, mount := range []string{"a/b", "a-b", "a_b", "a/b-c", "a-b/c", "a/b/c"} {
		policies, _ := evaluate(t, "namespaces = [\"hyvve\"]\nmount = \""+mount+"\"")
		said, err := exec.CommandContext(t.Context(), "./setup.sh", "--dry-run", "--policies-only", "--mount="+mount).Output()
		if err != nil {
			t.Fatal(err)
		}
		for name := range policies {
			if other := names[name]; other != "" {
				t.Errorf("policy %s is of %s and of %s", name, other, mount)
			}
			names[name] = mount
			if !strings.Contains(string(said), "vault policy write "+name+" -\n") {
				t.Errorf("the script writes no policy %s for %s", name, mount)
			}
		}
	}
}

func TestTerraformRefuses(t *testing.T) {
	dir := withoutProvider(t)
	for want, variables := range map[string]string{
		"at least one, and each as Kubernetes has it": `namespaces = []`,
		"Name the namespaces":                         `namespaces = ["A B"]`,
		"is no path of an engine":                     "namespaces = [\"x\"]\nmount = \"a.b\"",
		"takes capital letters":                       "namespaces = [\"x\"]\nmount = \"Hyvve\"",
		"operator are none":                           "namespaces = [\"x\"]\nworkloads = { operator = null }",
		"no file exists":                              "namespaces = [\"x\"]\nworkloads = { billing = null }",
	} {
		said, err := terraform(t, dir, "plan", "-input=false", "-no-color", "-var-file="+tfvars(t, variables))
		said = strings.Join(strings.FieldsFunc(said, func(r rune) bool { return r == '│' || r == '\n' || r == ' ' }), " ")
		if err == nil || !strings.Contains(said, want) {
			t.Errorf("%s: %v: %s\nwant %q", variables, err, said, want)
		}
	}
}
