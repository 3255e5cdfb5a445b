// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/kubernetes"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/variables"
)

// KubernetesSecret is the format of render blocks that write no file.
const KubernetesSecret = "kubernetes_secret" //nolint:gosec // the name of a format

// formats are those of render blocks.
func formats() []string { return append(render.Formats(), KubernetesSecret) }

// KubernetesBlock is where the API server is, and who the sidecar is there. In a pod, all of it may be left out.
type KubernetesBlock struct {
	Address   string `hcl:"address,optional" type:"URL" default:"of the pod" doc:"URL of the API server, with https://."`
	CACert    string `hcl:"ca_cert,optional" type:"file" default:"of the service account" doc:"Authority of the certificate of the API server."`
	TokenPath string `hcl:"token_path,optional" type:"file" default:"of the service account" doc:"File that holds the token."`
	Namespace string `hcl:"namespace,optional" default:"of the service account" doc:"Namespace of Secrets and rollouts that name none."`
	LookEvery string `hcl:"look_every,optional" type:"duration" default:"1m" doc:"Interval between checks of the Secrets."`
}

// Secret is a render "kubernetes_secret" block with its namespace, and what it is to hold.
type Secret struct {
	RenderBlock
	Holds render.Data
}

// rolloutLimits is how long a rollout may take by default.
const rolloutLimits = 10 * time.Minute

// Files are the render blocks that write files.
func (f File) Files() []RenderBlock {
	return slices.DeleteFunc(slices.Clone(f.Render), func(r RenderBlock) bool { return r.Format == KubernetesSecret })
}

func (f File) usesKubernetes() bool {
	return len(f.Files()) < len(f.Render) || f.Reload != nil && f.Reload.Method == "rollout"
}

// checkKubernetes fills in what asks the API server, and then Secrets.
func (c *Checked) checkKubernetes() (errs []error) {
	if !c.usesKubernetes() {
		if c.Kubernetes != nil {
			errs = append(errs, errors.New("kubernetes: nothing uses this block; add a render \"kubernetes_secret\" block, or take it out"))
		}
		return errs
	}
	b := KubernetesBlock{}
	if c.Kubernetes != nil {
		b = *c.Kubernetes
	}
	errs = b.standard()
	var err error
	if c.LookEvery, err = setting("kubernetes: ", b, "look_every"); err != nil {
		errs = append(errs, err)
	}
	c.Kubernetes = &b
	places := map[string]bool{}
	for _, r := range c.Render {
		if r.Format != KubernetesSecret {
			continue
		}
		d, err := r.secret(b.Namespace, c.AllowNames)
		if place := d.Namespace + "/" + d.Name; places[place] && err == nil {
			err = fmt.Errorf("another block writes %s too, and each would undo what the other writes; write it in one", place)
		} else {
			places[place] = true
		}
		if err != nil {
			errs = append(errs, within(fmt.Sprintf("render %q", r.Format), err))
		}
		c.Secrets = append(c.Secrets, d)
	}
	if r := c.Reload; r != nil && r.Method != "rollout" && r.Method != "none" && len(c.Files()) == 0 {
		errs = append(errs, fmt.Errorf("reload %q is for files, of which there are none: those who read a Secret are restarted by reload \"rollout\", or look at their volumes themselves (\"none\")", r.Method))
	}
	return errs
}

// standard fills in what a pod finds in its place, and checks the rest.
func (b *KubernetesBlock) standard() (errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("kubernetes: "+format, args...)) }
	inside := b.Address == ""
	if inside {
		b.Address = kubernetes.InCluster()
	}
	u, err := url.Parse(b.Address)
	switch {
	case b.Address == "":
		fail("address is missing, and this is no pod (KUBERNETES_SERVICE_HOST is not set); write that of the API server, such as \"https://10.0.0.1:6443\"")
	case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "":
		fail("address is not https:// with a host; write one such as \"https://10.0.0.1:6443\"")
	}
	if inside && b.CACert == "" {
		b.CACert = kubernetes.AccountCA
	}
	if b.TokenPath == "" {
		b.TokenPath = kubernetes.AccountToken
	}
	for _, f := range []struct{ name, path string }{{"ca_cert", b.CACert}, {"token_path", b.TokenPath}} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			fail("%s = %q is not an absolute path; write one", f.name, f.path)
		}
	}
	if b.Namespace == "" {
		if text, err := os.ReadFile(kubernetes.AccountSpace); err == nil {
			b.Namespace = strings.TrimSpace(string(text))
		}
	} else if err := kubernetes.CheckNamespace("namespace", b.Namespace); err != nil {
		fail("%w", err)
	}
	return errs
}

// secret reads what a block says.
func (r RenderBlock) secret(namespace string, allow []string) (Secret, error) {
	r.Namespace = cmp.Or(r.Namespace, namespace)
	d := Secret{r, render.Data{
		Choice: variables.Choice{Keys: r.Keys, Accepts: r.Accepts, Previous: r.Previous, Allow: allow, Mapped: r.mapped()},
		Fields: map[string]render.Field{},
	}}
	errs := []error{strayOptions(r.Format, r)}
	if r.Immutable {
		errs = append(errs, errors.New("immutable would keep the values from ever changing; take it out"))
	}
	errs = append(errs, checkKeys(r.Keys, r.allowed(allow)))
	names := slices.Sorted(maps.Keys(r.Data))
	for _, name := range names {
		field, err := r.field(name, r.Data[name])
		errs = append(errs, err)
		d.Holds.Fields[name] = field
	}
	if r.Data != nil && len(names) == 0 {
		errs = append(errs, errors.New("data is empty; name what to write, or leave it out for all keys"))
	}
	return d, errors.Join(append(errs, d.Object().Check(names))...)
}

// field reads the name of a key, or a template.
func (r RenderBlock) field(name, text string) (f render.Field, err error) {
	if strings.Contains(text, "{{") {
		f.Template, err = render.NewTemplate("data: "+name, text, r.Keys)
		return f, err
	}
	f.Key = text
	of := strings.TrimSuffix(strings.TrimSuffix(text, variables.AcceptsAfter), variables.PreviousAfter)
	switch {
	case key.ValidateEnv(text) != nil:
		return f, fmt.Errorf("data: %s is neither the name of a key, such as \"METRICS_API_KEY\", nor a template, such as \"Bearer {{ value \\\"METRICS_API_KEY\\\" }}\"", name)
	case !(variables.Choice{Keys: r.Keys}).Wants(text) && !(variables.Choice{Keys: r.Keys}).Wants(of):
		return f, fmt.Errorf("data: %s: %s is not among keys of the block; add it there", name, text)
	}
	return f, nil
}

// Object is the Secret, without a client.
func (s Secret) Object() *kubernetes.Secret {
	return &kubernetes.Secret{
		Namespace: s.Namespace, Name: s.Name, Type: s.Type, Labels: s.Labels, Annotations: s.Annotations, Force: s.Force,
	}
}

// checkRollout refuses what cannot restart those who read the Secrets.
func (c *Checked) checkRollout(r *Reloading) error {
	if r.Namespace == "" && c.Kubernetes != nil {
		r.Namespace = c.Kubernetes.Namespace
	}
	made := kubernetes.Rollout{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
	for _, s := range c.Secrets {
		made.Secrets = append(made.Secrets, s.Object())
	}
	if c.Watch != nil {
		return errors.New("it goes with a vault block and a render \"kubernetes_secret\" block, not with watch; take one of them out")
	}
	return made.CheckConfiguration()
}
