// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	engineapi "github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
)

// Every key rotates under load in real pods: while api is being updated, while the node's pods are evicted, while a sidecar is
// killed. No request fails, every pod ends up with the new version, and the old one is gone.
func TestRotationsInPods(t *testing.T) {
	p := newPlatform(t)
	p.done(p.rotate("agent-service-token"))

	t.Log("in the middle of a rolling update of api")
	id := p.rotate("better-auth-secret", "encryption-master-key")
	p.kubectl("rollout", "restart", "deployment/api")
	p.done(id)
	p.settled()
	p.placed()

	t.Log("while the node's pods are evicted")
	id = p.rotate("database-url", "redis-url")
	p.evictAll()
	p.done(id)
	p.settled()

	t.Log("while a sidecar is killed")
	id = p.rotate("jwt-secret", "agno-api-key", "metrics-api-key")
	p.killSidecar()
	p.done(id)
	p.settled()
	p.conclude()
}

// A workload that is not there has not proved anything: with api at 0 a rotation waits, and continues when it is back.
func TestScaledToNothing(t *testing.T) {
	p := newPlatform(t)
	p.load.Stop() // its requests would go nowhere
	p.kubectl("scale", "deployment/api", "deployment/agents", "--replicas=0")
	await(t, "all pods to be gone", func() bool {
		pods, err := p.node.Pods(t.Context(), p.ns, "")
		return err == nil && len(pods) == 0
	})
	id := p.rotate("better-auth-secret")
	p.until(id, "a rotation that misses instances", func(r engineapi.Rotation) bool {
		return r.State == "accepting" && strings.Contains(r.NextGate, "0 of at least 3")
	})
	p.kubectl("scale", "deployment/api", "--replicas=3")
	p.rollout("deployment/api")
	p.kubectl("scale", "deployment/agents", "--replicas=2")
	p.done(id)
	p.settled()
}

func (p *hyvve) rollout(what string) {
	p.t.Helper()
	if err := p.node.Rollout(p.t.Context(), p.ns, what); err != nil {
		p.t.Fatal(err)
	}
}

func (p *hyvve) kubectl(args ...string) {
	p.t.Helper()
	if _, err := p.node.Kubectl(p.t.Context(), "", append([]string{"-n", p.ns}, args...)...); err != nil {
		p.t.Fatal(err)
	}
}

// evictAll evicts all pods one after the other, as their budgets let it, as a drain of the node does.
func (p *hyvve) evictAll() {
	p.t.Helper()
	pods, err := p.node.Pods(p.t.Context(), p.ns, "")
	if err != nil || len(pods) < 5 {
		p.t.Fatalf("%d pods (%v)", len(pods), err)
	}
	for _, pod := range pods {
		await(p.t, "the eviction of "+pod.Name, func() bool {
			err := p.node.Evict(p.t.Context(), p.ns, pod.Name)
			if apierrors.IsTooManyRequests(err) {
				return false
			}
			if err != nil && !apierrors.IsNotFound(err) {
				p.t.Fatal(err)
			}
			return true
		})
	}
}

// killSidecar kills the sidecar of one api, and sees it come back, with its workload as it was.
func (p *hyvve) killSidecar() {
	p.t.Helper()
	pods, err := p.node.Pods(p.t.Context(), p.ns, "app=api")
	if err != nil || len(pods) == 0 {
		p.t.Fatal(err)
	}
	pod := pods[0]
	if err := p.node.KillContainer(p.t.Context(), p.ns, pod.Name, "hyvve-sidecar"); err != nil {
		p.t.Fatal(err)
	}
	await(p.t, "the killed sidecar", func() bool {
		now, err := p.node.Pods(p.t.Context(), p.ns, "app=api")
		if err != nil {
			return false
		}
		for _, n := range now {
			if n.Name == pod.Name {
				if n.Restarts["api"] != pod.Restarts["api"] {
					p.t.Fatal("its workload was restarted, too")
				}
				return n.Restarts["hyvve-sidecar"] == pod.Restarts["hyvve-sidecar"]+1 && n.Ready
			}
		}
		return false
	})
}

// placed checks that an instance is shown with its service account, as Vault knows it, and the pod that it says it is in.
func (p *hyvve) placed() {
	p.t.Helper()
	pods, err := p.node.Pods(p.t.Context(), p.ns, "app=api")
	if err != nil || len(pods) == 0 {
		p.t.Fatal(len(pods), err)
	}
	secret, err := p.Server.Client.Logical().ReadWithDataWithContext(p.t.Context(), "hyvve/workloads/api/instances/"+p.ns+"."+pods[0].Name, url.Values{"detailed": {"true"}})
	if err != nil || secret == nil {
		p.t.Fatal(secret, err)
	}
	login, _ := secret.Data["login"].(map[string]any)
	if accounts := fmt.Sprint(login["service_accounts"]); accounts != "["+p.ns+"/api]" || secret.Data["says_pod"] != pods[0].Name {
		p.t.Errorf("%s is shown in pod %v, on node %v, with login %v", pods[0].Name, secret.Data["says_pod"], secret.Data["says_node"], login)
	}
}

// settled waits until exactly the pods that there are are live instances, and all have the current version of each key.
func (p *hyvve) settled() {
	p.t.Helper()
	last := ""
	await(p.t, "every pod to be on the current versions", func() bool {
		for workload, want := range map[string]int{"api": 3, "agents": 2} {
			pods, err := p.node.Pods(p.t.Context(), p.ns, "app="+workload)
			if err != nil {
				return false
			}
			secret, err := p.Server.Client.Logical().ReadWithDataWithContext(p.t.Context(), "hyvve/workloads/"+workload, url.Values{"detailed": {"true"}})
			if err != nil {
				return false
			}
			instances, _ := secret.Data["instances"].([]any)
			if now := fmt.Sprintf("%s: %d pods, %d instances %v", workload, len(pods), len(instances), instances); now != last {
				last = now
			}
			if len(pods) != want || len(instances) != want {
				return false
			}
			for _, i := range instances {
				instance, _ := i.(map[string]any)
				known := false
				for _, pod := range pods {
					known = known || pod.Ready && !pod.Ending && instance["instance"] == p.ns+"."+pod.Name
				}
				if !known || instance["healthy"] != true || instance["up_to_date"] == false {
					return false
				}
			}
		}
		return true
	})
	p.t.Log("settled; ", last)
}

var callsMade = regexp.MustCompile(`(\d+) calls made, (\d+) failed; last: (.*)`)

// conclude checks that nobody noticed anything.
func (p *hyvve) conclude() {
	p.t.Helper()
	counts, err := p.load.Counts(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	p.load.Stop()
	if counts.Failures > 0 || counts.Sessions < 100 || counts.Reads < 20 {
		p.t.Errorf("requests: %+v", counts)
	}
	p.kubectl("scale", "deployment/agents", "--replicas=0") // they say at their end how it went
	await(p.t, "agents to be gone", func() bool {
		pods, err := p.node.Pods(p.t.Context(), p.ns, "app=agents")
		return err == nil && len(pods) == 0
	})
	calls, failed := 0, 0
	for _, m := range callsMade.FindAllStringSubmatch(p.logs.end(p.t, "agents"), -1) {
		made, _ := strconv.Atoi(m[1])
		bad, _ := strconv.Atoi(m[2])
		calls += made
		if failed += bad; bad > 0 {
			p.t.Errorf("agents: %s", m[0])
		}
	}
	p.t.Logf("%d requests of users, %d calls of agents, %d failed", counts.Total(), calls, counts.Failures+failed)
	if calls < 1000 {
		p.t.Errorf("only %d calls of agents", calls)
	}
	columns, err := p.VerifyRows(p.t.Context(), p.newest())
	if err != nil {
		p.t.Fatal(err)
	}
	for _, c := range columns {
		if c.Current != c.Rows || c.Changed > 0 {
			p.t.Errorf("rows: %+v", c)
		}
	}
	found, places, secrets, err := p.Leaks(p.t.Context())
	if err != nil || len(found) > 0 || places == 0 || secrets < 10 {
		p.t.Errorf("secrets stand in %v (%d places and %d secrets searched, %v)", found, places, secrets, err)
	}
}
