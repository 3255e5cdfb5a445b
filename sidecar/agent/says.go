// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

var errTokenEnds = errors.New("the token ends soon; logging in again")

// does are effects without a result.
var does = map[machine.Do]func(*Agent){
	machine.StartWatch:    (*Agent).openWatch,
	machine.CloseWatch:    (*Agent).closeWatch,
	machine.ClearNotes:    (*Agent).clearNotes,
	machine.ConfirmCopy:   (*Agent).confirmCopy,
	machine.DropSecret:    (*Agent).dropSecret,
	machine.StartWork:     func(a *Agent) { a.jobs.want(a.bundle) },
	machine.ResumeProxies: func(a *Agent) { a.proxies.resume() },
}

// says are effects that write to the log, and to the board where they are about Vault.
var says = map[machine.Do]func(*Agent, machine.Effect){
	machine.SaySessionEnded: func(a *Agent, e machine.Effect) { a.saySessionEnded(a.problem, e.Wait) },
	machine.SayTokenEnds:    func(a *Agent, e machine.Effect) { a.saySessionEnded(errTokenEnds, e.Wait) },
	machine.SayRequest: func(a *Agent, e machine.Effect) {
		a.vaultIs(a.problem)
		a.log.Warn("vault did not take a request; files stay as they are", "error", a.problem, "retry_in", e.Wait)
	},
	machine.SayToken:   func(a *Agent, _ machine.Effect) { a.log.Warn("token not renewed", "error", a.problem) },
	machine.SayWaiting: (*Agent).sayNotStarted,
	machine.SayBack: func(a *Agent, _ machine.Effect) {
		a.log.Info("vault is back; the last-good copy has served", "etag", a.bundle.Etag)
	},
	machine.SayNoWrite: func(a *Agent, _ machine.Effect) {
		a.log.Warn("vault lets this sidecar read its bundle, and not write its secret there; after another login it may have to wait until its name is free. Add \"update\" to the capabilities of creds in its policy", "path", a.config.Vault.Mount+"/creds/"+a.config.Workload)
	},
	machine.SaySecretLost: func(a *Agent, _ machine.Effect) {
		a.log.Warn("the instance's secret is not kept; should this process be killed, the next one may have to wait until the name is free", "error", a.problem)
	},
	machine.SayRivals: func(a *Agent, _ machine.Effect) {
		a.log.Warn("another process watches as the same instance; give each its own instance", "instance", a.bundle.Instance)
	},
	machine.SayHealthy: func(a *Agent, _ machine.Effect) { a.log.Info("workload is healthy", "etag", a.applied.Etag) },
	machine.SayUnhealthy: func(a *Agent, e machine.Effect) {
		a.log.Warn("workload is not healthy", "error", e.Reason)
	},
	machine.SayCheck: func(a *Agent, e machine.Effect) {
		a.log.Info("a check of the workload failed", "error", e.Reason, "failures", a.state.Bad, "of", a.config.Failures)
	},
}

func (a *Agent) saySessionEnded(err error, wait time.Duration) {
	a.vaultIs(err)
	a.log.Warn("vault session ended; files stay as they are", "error", err, "retry_in", wait)
}

// sayNotStarted says what trouble means for a workload that gets its environment here.
func (a *Agent) sayNotStarted(machine.Effect) {
	if _, ok := a.config.Reloader.(reload.Provider); ok {
		a.log.Warn("workload is not started: it waits for its first bundle")
	}
}
