// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/kubernetes"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

// stops ends work and returns the event of the end.
func (a *Agent) stops() machine.Event {
	a.jobs.stop()
	a.discard()
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

// workloadEnded reports whether the workload is known to have ended.
func (a *Agent) workloadEnded() bool {
	if s, ok := a.config.Reloader.(reload.Seer); ok {
		switch s.See(a.process) {
		case reload.Runs:
			return false
		case reload.Ended:
			return true
		default:
		}
	}
	if len(a.config.Destinations) > 0 { // pods that this one says nothing of
		return false
	}
	pod, namespace := os.Getenv("HYVVE_POD"), os.Getenv("HYVVE_NAMESPACE")
	return pod != "" && namespace != "" && (a.nobodyListens() || a.podEnds(namespace, pod))
}

// Bounds of what is asked at the end of the process.
const (
	dialTime = 300 * time.Millisecond
	podTime  = time.Second
)

// nobodyListens reports whether nobody listens any more where the workload's health is checked, on this machine. In a pod whose native
// sidecar is to end, the workload has ended then: Kubernetes ends it first. One that has not proved itself may still start.
func (a *Agent) nobodyListens() bool {
	if !a.proved {
		return false
	}
	looked := false
	for _, h := range a.config.Health {
		address := h.Address
		switch h.Method {
		case "http":
			u, err := url.Parse(h.URL)
			if err != nil {
				return false
			}
			if address = u.Host; u.Port() == "" {
				address = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
			}
		case "tcp":
		default:
			continue
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil || !dsn.Local(host) || a.proxied(port) {
			return false
		}
		ctx, cancel := context.WithTimeout(context.Background(), dialTime)
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		cancel()
		if err == nil {
			_ = conn.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return false
		}
		looked = true
	}
	return looked
}

// proxied reports whether the sidecar's own proxy listens at a port: it stops with the sidecar, so that nobody listens there says
// nothing of the workload.
func (a *Agent) proxied(port string) bool {
	return slices.ContainsFunc(a.config.Listeners, func(l config.Listener) bool {
		_, own, err := net.SplitHostPort(l.Address)
		return err != nil || own == port
	})
}

// podEnds reports whether the API server says that the pod is terminating. Most pods may not ask it.
func (a *Agent) podEnds(namespace, pod string) bool {
	address := kubernetes.InCluster()
	if _, err := os.Stat(kubernetes.AccountToken); err != nil || address == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), podTime)
	defer cancel()
	api := &kubernetes.Client{Address: address, CACert: kubernetes.AccountCA, TokenPath: kubernetes.AccountToken}
	ends, err := api.Terminating(ctx, namespace, pod)
	if err != nil {
		a.log.Info("it is not known whether this pod is terminating", "error", err)
	}
	return ends
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
	report, _ := a.report(true)
	if _, err := a.engine.Report(ctx, report); err != nil {
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
