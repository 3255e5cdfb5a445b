// SPDX-License-Identifier: Apache-2.0

package config

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

const referenceHead = `# Configuration of the sidecar

<!-- Made from the blocks in sidecar/config by "make generate". -->

The configuration file is HCL. [sidecar.md](sidecar.md#configuration) has an example. A flag overrides its option, and so does the
environment variable of the flag: ~HYVVE_SIDECAR_VAULT_ADDR~ for ~--vault-addr~. The other options of the block keep their values. A
flag whose option excludes what the file has is an error, such as ~--pid-file~ with a ~reload "http"~ block. A flag for another way to
log in replaces the ~auth~ block. "Only with" names the labels of the block that have the option; elsewhere it is an error. In a pod,
an annotation sets the option ([annotations.md](annotations.md)): ~hyvve.app/vault-addr~ where ~vault-addr~ is named.
`

// reference is docs/configuration.md.
func reference() string {
	var page strings.Builder
	page.WriteString(strings.ReplaceAll(referenceHead, "~", "`"))
	for _, b := range Blocks() {
		title := "Outside of blocks"
		switch {
		case b.Label != "":
			title = fmt.Sprintf("`%s %q`", b.Path, b.Label)
		case b.Path != "":
			title = "`" + b.Path + "`"
		}
		_, _ = fmt.Fprintf(&page, "\n## %s\n\n| Option | Type | Default | Description |\n|---|---|---|---|\n", title)
		for _, o := range b.Options {
			_, _ = fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", o.Name, o.Kind(), o.Without(), o.description())
		}
	}
	return page.String()
}

func (o Option) description() string {
	text := []string{o.Doc}
	if o.Note != "" {
		text = append(text, o.Note)
	}
	if o.Excludes != nil {
		text = append(text, "Excludes "+strings.Join(o.Excludes, ", ")+".")
	}
	if o.Of != nil {
		text = append(text, "Only with "+strings.Join(o.Of, ", ")+".")
	}
	if o.Flag != "" {
		text = append(text, "Flag: `--"+o.Flag+"`.")
	}
	if o.Annotation != "" {
		text = append(text, "Annotation: `"+o.Annotation+"`.")
	}
	return strings.Join(text, " ")
}

func TestReference(t *testing.T) {
	const path = "../../docs/configuration.md"
	if *update {
		if err := os.WriteFile(path, []byte(reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil || string(text) != reference() {
		t.Errorf("%s is not what the blocks say (%v); run \"make generate\"", path, err)
	}
}

// An option says all that the checks and the reference need of it.
func TestOptionsAreDescribed(t *testing.T) {
	count := 0
	for _, b := range Blocks() {
		for _, o := range b.Options {
			count++
			for _, text := range []string{o.Doc, o.Note} {
				if words := len(strings.Fields(text)); words > 16 || (words > 0) != strings.HasSuffix(text, ".") || o.Doc == "" {
					t.Errorf("%s %s: doc or note is %q; write a sentence of at most 16 words", b.Path, o.Name, text)
				}
			}
			if d, err := time.ParseDuration(o.Default); o.Type == "duration" && o.Default != "" && (err != nil || d <= 0) {
				t.Errorf("%s %s: default is %q", b.Path, o.Name, o.Default)
			}
			for _, f := range []string{"Interval", "Deadline", "Timeout", "Stable", "Poll", "Window", "LookEvery", "StopTimeout", "MaxAge", "MaxLoad"} {
				if o.field.Name == f && o.Type != "duration" {
					t.Errorf("%s %s: type is %q", b.Path, o.Name, o.Type)
				}
			}
			for _, other := range o.Excludes {
				if !slices.ContainsFunc(b.Options, func(of Option) bool { return of.Name == other && slices.Contains(of.Excludes, o.Name) }) {
					t.Errorf("%s %s excludes %s, which does not say so", b.Path, o.Name, other)
				}
			}
		}
	}
	if count < 100 {
		t.Errorf("only %d options were looked at", count)
	}
}

// The default of deadline depends on the reload block, and the reference says so.
func TestDefaultOfDeadline(t *testing.T) {
	deadline := func(r ReloadBlock) time.Duration {
		c, err := File{
			Workload: "api", Vault: &VaultBlock{Address: "http://127.0.0.1:8200", Auth: AuthBlock{Method: "token_file", Path: "/run/token"}},
			Render: []RenderBlock{{Format: KubernetesSecret, Name: "x", Namespace: "n"}}, Reload: &r, Kubernetes: &KubernetesBlock{Address: "https://10.0.0.1:6443", Namespace: "n"},
		}.Check()
		if err != nil {
			t.Fatal(err)
		}
		return c.Deadline
	}
	if got, want := deadline(ReloadBlock{Method: "none"}), standard(HealthBlock{}, "deadline"); got != want {
		t.Errorf("deadline is %v, want %v", got, want)
	}
	for timeout, want := range map[string]time.Duration{"": rolloutLimits, "3m": 3 * time.Minute} {
		if got := deadline(ReloadBlock{Method: "rollout", Kind: "deployment", Name: "x", Timeout: timeout}); got != want {
			t.Errorf("with rollout and timeout %q, deadline is %v, want %v", timeout, got, want)
		}
	}
	if doc := option(HealthBlock{}, "deadline").Note; !strings.Contains(doc, "With rollout, by default reload's timeout.") {
		t.Errorf("the reference says: %s", doc)
	}
}

// Defaults that the code has, and not the tags, are those that the reference names.
func TestDefaultsOfTheReference(t *testing.T) {
	c, err := File{
		Workload: "api", Vault: &VaultBlock{Address: "http://127.0.0.1:8200", Auth: AuthBlock{Method: "token_file", Path: "/run/token"}},
		Render: []RenderBlock{{Format: "json", Path: "/run/x.json"}}, Exec: &ExecBlock{},
		Proxy: []ProxyBlock{{Listen: ":1", Upstream: "http://127.0.0.1:2", Key: "TOKEN"}},
	}.Check()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []struct {
		block any
		name  string
		is    any
	}{
		{VaultBlock{}, "mount", c.Vault.Mount},
		{RenderBlock{}, "mode", fmt.Sprintf("%04o", c.Targets[0].Mode)},
		{ExecBlock{}, "on_change", c.Running.OnChange},
		{ExecBlock{}, "signal", unix.SignalName(c.Running.Signal)},
		{ExecBlock{}, "stop_signal", unix.SignalName(c.Running.StopSignal)},
		{HealthBlock{}, "successes", c.Successes},
		{HealthBlock{}, "failures", c.Failures},
		{ProxyBlock{}, "header", c.Listeners[0].Keys[0].Header},
		{ProxyBlock{}, "max_requests", ProxyRequests},
	} {
		if said := option(d.block, d.name).Default; said != fmt.Sprint(d.is) {
			t.Errorf("%T: the default of %s is %v, and the reference says %q", d.block, d.name, d.is, said)
		}
	}
}
