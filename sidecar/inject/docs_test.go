// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// inPods is what is special about options in pods.
var inPods = map[string]struct{ standard, text string }{
	workloadName:         {standard: "required"},
	"vault-addr":         {standard: "the injector's"},
	"mount":              {standard: "the injector's, `hyvve`"},
	"vault-namespace":    {standard: "the injector's"},
	"auth-mount":         {standard: "the injector's, `kubernetes`"},
	"role":               {standard: "the workload"},
	"mode":               {standard: "`0600`; `0640` where containers read as a group"},
	"keys":               {text: "With `exec`, of those to set in its environment, too."},
	"exec-signal":        {text: "Needs `exec-on-change: signal`."},
	"health-url":         {text: "With `prometheus`, that of the metrics."},
	"proxy-max-requests": {text: "The default of `memory-limit` grows with more."},
}

// documentation is docs/annotations.md.
func documentation() string {
	var b strings.Builder
	b.WriteString(`# Annotations of pods

<!-- Made from the tables in sidecar/inject/annotations.go and sidecar/config by "make generate". -->

The injector reads these annotations of a pod, or of the template of a Deployment, StatefulSet, DaemonSet or Job. All begin with
` + "`" + Domain + "/`" + `. It refuses a pod with an annotation that is unknown, locked ([injector.md](injector.md#locked-annotations)) or without
effect, or whose value is wrong, and says why. Values are text: quote ` + "`\"true\"`" + ` and numbers. Most annotations set an option of the
sidecar, which [configuration.md](configuration.md) describes. [injector.md](injector.md) describes how injection works.

| Annotation | Type | Default | Description |
|---|---|---|---|
`)
	for _, a := range table() {
		name := a.name
		if strings.HasSuffix(name, ".") {
			name += "NAME"
		}
		standard, what := a.standard, a.text
		if a.of != nil {
			what += " Only with `" + strings.Join(a.of, "`, `") + "`."
		}
		if special, ok := inPods[a.name]; ok {
			standard, what = cmp.Or(special.standard, standard), strings.TrimSpace(what+" "+special.text)
		}
		if slices.Contains(LockedByDefault(), a.name) {
			what += " **Locked by default.**"
		}
		_, _ = fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, a.takes, standard, what)
	}
	b.WriteString(strings.ReplaceAll(becomes, "~", "`"))
	return b.String()
}

// becomes ends the page; ~ stands for a backquote.
const becomes = `
## What changes in a pod

| Subject | Change |
|---|---|
| Sidecar | A native one: an init container ~hyvve-sidecar~ with ~restartPolicy: Always~ (Kubernetes 1.29). It comes after the pod's own init containers; with ~init-containers~, before them. |
| Start | The containers start when the startup probe of the sidecar has found the files. While Vault is away or refuses, the pod waits; its events contain the reason. |
| End | The kubelet stops the sidecar after the containers, so that Jobs finish. |
| Files | They are in ~/run/hyvve/keys~, in memory. Containers mount ~/run/hyvve~ read-only. |
| Token | The token for Vault (~audience~, ~token-lifetime~) is mounted only where the sidecar runs. |
| Instance | Its name is NAMESPACE.POD. |
| ~exec~ | An init container ~hyvve-install~ copies the program into a volume. The container runs ~hyvve-sidecar exec -- COMMAND ARGS~ instead of its command, which the pod must state: the image is not visible to the injector. |
| ~exec~: no sidecar | A second sidecar would count as a second instance. So the container does health checks, proxy, re-encryption and files itself, and alone sees the volume unless files are rendered. |
| ~reload: signal~ | Sets ~shareProcessNamespace~: the containers see each other's processes. The injector refuses a pod that sets it to false, or has hostPID. |
| Privileges | PodSecurity ~restricted~ accepts what is added: no root (unless a container to signal or to run is root), no capabilities, a read-only file system, ~seccompProfile: RuntimeDefault~. |
| Limits | 128 annotations with 32 KiB together; 4 KiB each, 16 KiB for a template; 32 entries of ~render~, ~proxy~ and ~health-labels~. |
| Refused | Pods for Windows; static pods; hostNetwork with ~proxy~ or ~status-port~, which would listen on the node; names, volumes and mount paths that are in use; any configuration that the sidecar refuses. |
| A second call | Changes nothing. A container that was added since, such as the proxy of a mesh, gets the files if it can read them, and none otherwise. If ~containers~ names it, it must be able to. |

**Who can read the files.** They are never readable by all users, so the injector must know who reads them. The sidecar runs as the user
of the containers that see the files: ~runAsUser~ of the container or the pod, or ~run-as-user~ if only the image sets it. If there are
several users, or the sidecar is another one, a group reads the files, with mode ~0640~: the pod's ~fsGroup~, or a ~runAsGroup~ that all
of them have. A container that runs as root reads them anyway, unless it has dropped ~DAC_OVERRIDE~. Otherwise the injector refuses the
pod and says what to write; it does not guess. To signal a process, the sidecar must run as the same user.
`

func TestDocumentation(t *testing.T) {
	for name := range inPods {
		if find(name).name == "" {
			t.Errorf("annotation %s is special, and not known", name)
		}
	}
	const path = "../../docs/annotations.md"
	if *update {
		if err := os.WriteFile(path, []byte(documentation()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil || string(text) != documentation() {
		t.Errorf("%s is not what the table says (%v); run \"make generate\"", path, err)
	}
}
