// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/kubernetes"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

// stops ends work and returns the event of the end.
func (a *Agent) stops() machine.Event {
	a.jobs.stop()
	a.discard()
	a.finishRead()
	if p, ok := a.config.Reloader.(reload.Provider); ok { // the sidecar ends after the workload that it runs
		if p.Failed() != "" {
			return machine.Event{Kind: machine.WorkloadGone, Reason: p.Failed()}
		}
		return machine.Event{Kind: machine.StopAfter}
	}
	if a.workloadEnded() {
		return machine.Event{Kind: machine.StopAfter}
	}
	a.holds = a.config.OnStop != config.OnStopLeave
	return machine.Event{Kind: machine.Stop}
}

// finishRead lets a read of the bundle that is under way end. Vault may have served it, and then believes the secret of that read
// alone: with it, the instance is left, or the next process continues it.
func (a *Agent) finishRead() {
	if a.sent != nil && a.sent.read != nil {
		timer := time.NewTimer(readTime)
		defer timer.Stop()
		select {
		case answer := <-a.sent.ended:
			a.sent.ended <- answer
		case <-timer.C:
		}
		if b := a.sent.read.Load(); b != nil {
			a.secret = b.Secret
			a.bundle.Instance, a.bundle.Secret = b.Instance, b.Secret
		}
	}
	if a.secret.Reveal() == "" {
		return
	}
	if err := a.storeSecret(); err != nil {
		a.log.Warn("the instance's secret is not kept; the next process may have to wait until the name is free", "error", err)
	}
}

// workloadEnded reports whether the workload is known to have ended. One that is gone for a moment may be about to be started again.
func (a *Agent) workloadEnded() bool {
	asks, within := inPod() && len(a.config.Destinations) == 0, a.config.RestartsWithin // a pod says nothing of those that read its Secrets
	listens := asks
	if within == 0 {
		within = restartTime
		if asks {
			within = podRestartTime
		}
	}
	away := true // all the time
	for end := time.Now().Add(within); ; time.Sleep(min(lookEvery, within)) {
		seen := a.sees()
		if seen == reload.Runs {
			return false
		}
		if asks {
			ended, err := a.podEnds()
			if ended {
				return true
			}
			asks = err == nil // it may say so in a moment
		}
		away = away && (seen == reload.Ended || listens && a.nobodyListens())
		if !away && !asks || time.Now().After(end) {
			return away && !asks // in a pod that continues, what is gone is to be started again
		}
	}
}

// sees returns what the reloader sees of the workload's process.
func (a *Agent) sees() reload.Sight {
	if s, ok := a.config.Reloader.(reload.Seer); ok {
		return s.See(a.process)
	}
	return reload.Unknown
}

// Bounds of what is asked at the end of the process.
const (
	dialTime = 300 * time.Millisecond
	podTime  = time.Second
	readTime = time.Second
)

// A workload has ended if it is not back within restartTime. That is more than supervisors usually wait before they start a program
// again, such as 5 s for units of systemd. In a pod it is podRestartTime: a kubelet that ends the sidecar gives it little time, at
// least 2 s, and starts other containers when it has ended.
const (
	restartTime    = 6 * time.Second
	podRestartTime = 1500 * time.Millisecond
	lookEvery      = 250 * time.Millisecond
)

// nobodyListens reports whether nobody listens any more where the workload's health is checked, on this machine. In a pod whose native
// sidecar is to end, the workload has ended then: Kubernetes ends it first. One that has not proved itself may still start.
func (a *Agent) nobodyListens() bool {
	var own []string
	for _, l := range a.config.Listeners {
		own = append(own, l.Address)
	}
	addresses := config.Listened(a.config.Health, own)
	return a.proved && len(addresses) > 0 && !slices.ContainsFunc(addresses, listens)
}

// listens reports whether somebody listens at an address, or may.
func listens(address string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	return !errors.Is(err, syscall.ECONNREFUSED)
}

// inPod reports whether the injector has put the sidecar into a pod.
func inPod() bool { return os.Getenv("HYVVE_POD") != "" && os.Getenv("HYVVE_NAMESPACE") != "" }

var errNoAccount = errors.New("the sidecar's container has no token for the API server")

// podEnds reports whether the API server says that the pod's containers have ended, or are to. Most pods may not ask it.
func (a *Agent) podEnds() (bool, error) {
	address := kubernetes.InCluster()
	if _, err := os.Stat(kubernetes.AccountToken); err != nil || address == "" {
		return false, errNoAccount
	}
	ctx, cancel := context.WithTimeout(context.Background(), podTime)
	defer cancel()
	api := &kubernetes.Client{Address: address, CACert: kubernetes.AccountCA, TokenPath: kubernetes.AccountToken}
	ends, err := api.Ending(ctx, os.Getenv("HYVVE_NAMESPACE"), os.Getenv("HYVVE_POD"))
	if err != nil {
		a.log.Info("it is not known whether this pod is to end", "error", err)
	}
	return ends, err
}

// sayBlindEnd warns of a pod of which the sidecar will not know that it has ended. It returns a function that waits until it has.
func (a *Agent) sayBlindEnd() (wait func()) {
	if a.config.Vault == nil || a.config.OnStop != config.OnStopHold || !inPod() || a.config.Ending() != config.EndUnseen || len(a.config.Destinations) > 0 {
		return func() {}
	}
	var asking sync.WaitGroup
	asking.Go(func() {
		if _, err := a.podEnds(); err != nil {
			a.log.Warn("this sidecar will not know that its pod has ended, so that each end holds rotations up for lease_ttl; let the service account get pods (podReaders of the chart), or check the health at the workload's own port")
		}
	})
	return asking.Wait
}

// sayRisks warns, once a configuration, of settings that are rarely meant.
func (a *Agent) sayRisks() {
	for _, risk := range a.config.Risks() {
		a.log.Warn("a setting is risky", "why", risk)
	}
}

// leave says goodbye, so that the instance does not count as live any more. The files stay.
func (a *Agent) leave() machine.Event {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	if err := a.engine.Leave(ctx, a.config.Workload, a.bundle.Instance, a.bundle.Secret); err != nil {
		a.log.Warn("engine not told that the instance has ended; it counts as live until its lease ends", "error", a.mask(err.Error()))
		return machine.Event{Kind: machine.LeaveFailed}
	}
	return machine.Event{Kind: machine.Left}
}

// reportFailure reports a workload that has failed before it had proved itself. Its lease stays then: an instance that is gone
// holds no rotation up, and the new values may be what it fails of. Its next start takes its place; else the lease ends.
func (a *Agent) reportFailure() machine.Event {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	a.log.Error("workload failed before it had proved itself; the instance counts until it is started again", "error", a.state.Reason)
	if _, err := a.engine.Report(ctx, a.report(true)); err != nil {
		a.log.Warn("failure not reported", "error", a.mask(err.Error()))
		return machine.Event{Kind: machine.LeaveFailed}
	}
	return machine.Event{Kind: machine.Left}
}

// reportLeaving says that the process ends beside its workload. The instance counts until its lease ends, or the next process takes
// it over with the secret that stays.
func (a *Agent) reportLeaving() machine.Event {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	answer, err := a.engine.Leaving(ctx, a.config.Workload, a.bundle.Instance, a.bundle.Secret)
	if err != nil {
		a.log.Warn("engine not told that the sidecar stops beside its workload; the instance counts until its lease ends", "error", a.mask(err.Error()))
		return machine.Event{Kind: machine.LeaveFailed}
	}
	a.log.Info("the workload may run on, so the instance keeps its lease; start the sidecar again before that ends, or stop the workload", "lease", answer.Lease())
	return machine.Event{Kind: machine.Left}
}
