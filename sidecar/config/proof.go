// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Proof is how a configuration lets the sidecar know that the workload uses a bundle.
type Proof struct {
	Most  workload.Proof // that a load can have
	Lacks string         // what a higher one needs, in words; empty: there is none
}

// What a configuration lacks for a higher proof.
const (
	lacksDelivery = "nothing hands the bundle to the workload; add a render or exec block"
	lacksReload   = "nothing makes the workload load what has changed; add a reload block, or reload \"none\" and a health block if it watches its files itself"
	lacksHealth   = "the workload is not checked; add a health block"
	lacksEtag     = "a check does not show which bundle the workload uses; add expect_etag = true to a health block of \"http\" or \"command\""
)

// Proof returns what the configuration can prove. A check proves nothing of a bundle that the workload has no reason to load.
func (c Checked) Proof() Proof {
	checked := slices.ContainsFunc(c.Checks, func(h Check) bool { return h.Method != "none" })
	switch {
	case !c.delivers():
		return Proof{workload.ProofNone, lacksDelivery}
	case c.ExpectsEtag():
		return Proof{workload.ProofEtag, ""}
	case checked && (c.makesLoad() || c.watchesItself()):
		return Proof{workload.ProofHealth, lacksEtag}
	case c.makesLoad():
		return Proof{workload.ProofReload, lacksHealth}
	case c.watchesItself():
		return Proof{workload.ProofNone, lacksHealth}
	}
	return Proof{workload.ProofNone, lacksReload}
}

// delivers reports whether a bundle gets to where it is used. To re-encrypt rows with it says nothing of the workload.
func (c Checked) delivers() bool {
	return len(c.Targets) > 0 || len(c.Secrets) > 0 || len(c.Listeners) > 0 || c.Exec != nil
}

// makesLoad reports whether the sidecar makes the workload load what has changed, or, as a proxy, is itself what uses it.
func (c Checked) makesLoad() bool {
	switch {
	case c.Exec != nil:
		return c.Running.OnChange != OnChangeNone
	case c.Reload != nil:
		return c.Reloading.Method != "none"
	}
	return len(c.Secrets) == 0 && !slices.ContainsFunc(c.Render, func(r RenderBlock) bool { return !c.proxied(r.Keys) })
}

// proxied reports whether clients present all of some keys to the sidecar's own proxy. None stands for all keys of the workload.
func (c Checked) proxied(keys []string) bool {
	return len(keys) > 0 && !slices.ContainsFunc(keys, func(name string) bool {
		return !slices.ContainsFunc(c.Proxy, func(p ProxyBlock) bool { return p.Key == name })
	})
}

// watchesItself reports whether the workload is said to watch its files itself.
func (c Checked) watchesItself() bool {
	return c.Exec != nil && c.Running.OnChange == OnChangeNone || c.Reload != nil && c.Reloading.Method == "none"
}
