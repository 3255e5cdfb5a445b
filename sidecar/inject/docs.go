// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"fmt"
	"slices"
	"strings"
)

// Documentation is docs/annotations.md.
func Documentation() string {
	var b strings.Builder
	b.WriteString(`# Annotations of pods

<!-- Made from the table in sidecar/inject/annotations.go by "make generate". -->

The injector reads these annotations of a pod, or of the template of a Deployment, StatefulSet, DaemonSet or Job. All begin with
` + "`" + Domain + "/`" + `. One that is not known, has no such value, or would have no effect is refused with the reason, and the pod with it.
Values are text: quote ` + "`\"true\"`" + ` and numbers. One that is locked ([injector.md](injector.md#locked-annotations)) is refused, too. How it works, and what it does to a pod: [injector.md](injector.md).

| Annotation | Takes | Without it | What |
|---|---|---|---|
`)
	for _, a := range table() {
		name := a.name
		if strings.HasSuffix(name, ".") {
			name += "NAME"
		}
		what := a.text
		if slices.Contains(LockedByDefault(), a.name) {
			what += " **Locked by default.**"
		}
		_, _ = fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, a.takes, a.standard, what)
	}
	b.WriteString(strings.ReplaceAll(becomes, "~", "`"))
	return b.String()
}

// becomes ends the page; ~ stands for a backquote.
const becomes = `
## What becomes of a pod

| Matter | What happens |
|---|---|
| The sidecar | is a native one: an init container, ~hyvve-sidecar~, that goes on (~restartPolicy: Always~, Kubernetes 1.29). It comes after the pod's own init containers, or first with ~init-containers~. The containers start once its startup probe has found the files there; the kubelet ends it after them, so that Jobs finish. While Vault is away, or refuses, the pod waits, and its events have the reason |
| Files | stand in ~/run/hyvve/keys~, in memory. Containers mount ~/run/hyvve~ and can only read; the service account's token for Vault, ~audience~ and ~token-lifetime~, is mounted where the sidecar runs and nowhere else |
| Instance | is called NAMESPACE.POD |
| ~exec~ | there is an init container ~hyvve-install~, which copies the program into a volume, and the named container runs ~hyvve-sidecar exec -- COMMAND ARGS~ instead. Its image's own command cannot be seen from outside, so the pod must state it. A second sidecar in the pod would count as a second instance, so there is none: health, proxy, re-encryption and files are that container's affair, and it alone sees the volume unless files are rendered |
| ~reload: signal~ | sets ~shareProcessNamespace~: containers see each other's processes. A pod that says it is false, or has hostPID, is refused |
| Rights | PodSecurity ~restricted~ takes what is added: no root (but where a container that must be signalled, or run, is), no capabilities, a read-only file system, ~seccompProfile: RuntimeDefault~ |
| Limits | 128 annotations of ours with 32 KiB together; 4 KiB each, and 16 KiB a template; 32 entries of ~render~, ~proxy~ and ~health-labels~ |
| Refused | pods for Windows; static pods; hostNetwork with ~proxy~ or ~status-port~, which would listen on the node; names, volumes and mount paths that are taken; and all that the sidecar itself would refuse in its configuration |
| A second time | changes nothing. A container that came meanwhile, such as the proxy of a mesh, gets the files if it can read them, and does without if not, unless ~containers~ names it |

**Who can read the files.** They are never for everybody, so it must be known who is to read them. The sidecar runs as the user of the
containers that see them: ~runAsUser~ of the container or the pod, or ~run-as-user~ where only the image says it. Where those are several, or the sidecar is
another one, files are for a group, with mode ~0640~: that of the pod's ~fsGroup~, or a ~runAsGroup~ that all of them have. A container of the superuser
reads them anyway, unless it has dropped ~DAC_OVERRIDE~. What remains is refused, with what to write: nobody is guessed. To be signalled takes the same user.
`
