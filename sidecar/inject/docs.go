// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"fmt"
	"strings"
)

// Documentation is docs/annotations.md.
func Documentation() string {
	var b strings.Builder
	b.WriteString(`# Annotations of pods

<!-- Made from the table in sidecar/inject/annotations.go by "make generate". -->

The injector reads these annotations of a pod, or of the template of a Deployment, StatefulSet, DaemonSet or Job. All begin with
` + "`" + Domain + "/`" + `. One that is not known, has no such value, or would have no effect is refused with the reason, and the pod with it.
Values are text: quote ` + "`\"true\"`" + ` and numbers. How it works, and what it does to a pod: [injector.md](injector.md).

| Annotation | Takes | Without it | What |
|---|---|---|---|
`)
	for _, a := range table() {
		name := a.name
		if strings.HasSuffix(name, ".") {
			name += "NAME"
		}
		_, _ = fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, a.takes, a.standard, a.text)
	}
	return b.String()
}
