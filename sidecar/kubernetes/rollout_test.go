// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
)

// There is no controller manager at this level: the test writes the status that one would, and makes and ends pods. What a real
// one does is tried with real pods, in test/e2e/pods.
type controlled struct {
	*cluster
	kind string
}

func (c controlled) path() string {
	return "/apis/apps/v1/namespaces/" + c.ns + "/" + Kinds[c.kind] + "/prometheus"
}

func (c *cluster) workload(kind, extra string) controlled {
	c.t.Helper()
	kinds := map[string]string{"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}
	replicas := "replicas: 2"
	if kind == "daemonset" {
		replicas = ""
	}
	if err := c.Apply(c.t.Context(), fmt.Sprintf(`
apiVersion: apps/v1
kind: %s
metadata: {name: prometheus, namespace: %s}
spec:
  %s
  %s
  selector:
    matchLabels: {app: prometheus}
    matchExpressions: [{key: app, operator: In, values: [prometheus, other]}, {key: app, operator: Exists}, {key: gone, operator: DoesNotExist}, {key: app, operator: NotIn, values: [x]}]
  template:
    metadata: {labels: {app: prometheus}}
    spec: {containers: [{name: prometheus, image: "registry.local/prometheus:1"}]}
`, kinds[kind], c.ns, replicas, extra)); err != nil {
		c.t.Fatal(err)
	}
	return controlled{c, kind}
}

func (c controlled) live() (w workload) {
	c.t.Helper()
	if err := c.Do(c.t.Context(), http.MethodGet, c.path(), nil, &w); err != nil {
		c.t.Fatal(err)
	}
	return w
}

// says writes the status, of the generation of now.
func (c controlled) says(status map[string]any) {
	c.t.Helper()
	all := map[string]any{"observedGeneration": c.live().Metadata.Generation}
	maps.Copy(all, status)
	if ready, ok := all["availableReplicas"]; ok {
		all["readyReplicas"] = ready
	}
	if err := c.Patch(c.t.Context(), c.path()+"/status", "application/merge-patch+json", map[string]any{"status": all}, nil); err != nil {
		c.t.Fatal(err)
	}
}

// pod makes one of the template of now.
func (c controlled) pod(name string) {
	c.t.Helper()
	if err := c.Do(c.t.Context(), http.MethodPost, "/api/v1/namespaces/"+c.ns+"/pods", map[string]any{
		"metadata": map[string]any{"name": name, "labels": map[string]string{"app": "prometheus"}, "annotations": c.live().Spec.Template.Metadata.Annotations, "finalizers": []string{"example.org/still-ending"}},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": "prometheus", "image": "registry.local/prometheus:1"}}},
	}, nil); err != nil {
		c.t.Fatal(err)
	}
}

// end begins to end a pod, and gone lets it go.
func (c controlled) end(name string) { c.kubectl("delete", "pod", name, "--wait=false", "--now") }

func (c controlled) gone(name string) {
	c.t.Helper()
	if err := c.Patch(c.t.Context(), "/api/v1/namespaces/"+c.ns+"/pods/"+name, "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), nil); err != nil {
		c.t.Fatal(err)
	}
}

func (c controlled) rollout(s *Secret) *Rollout {
	return &Rollout{Client: c.client, Kind: c.kind, Namespace: c.ns, Name: "prometheus", Secrets: []*Secret{s}}
}

func (c controlled) reloadPending(r *Rollout, want bool) {
	c.t.Helper()
	if pending, err := r.ReloadPending(c.t.Context()); err != nil || pending != want {
		c.t.Errorf("a reload is pending: %v (%v)", pending, err)
	}
}

// restarts wants a reload that succeeds, and reports whether it has restarted anything.
func (c controlled) restarts(r *Rollout, want bool) {
	c.t.Helper()
	before := c.live().Metadata.Generation
	if err := r.Reload(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	if did := c.live().Metadata.Generation > before; did != want {
		c.t.Errorf("restarted: %v", did)
	}
}

func TestRolloutIsBegunOnceAndWatchedToItsEnd(t *testing.T) {
	c := newCluster(t, true).workload("deployment", "")
	s := c.secret()
	c.brings(s, true, texts("token", canary))
	c.pod("old-1")
	c.pod("old-2")
	r := c.rollout(s)
	c.reloadPending(r, true)
	c.restarts(r, true)
	c.restarts(r, false)
	c.reloadPending(r, false)
	// A sidecar that was killed here, and knows nothing, restarts nothing.
	again := c.secret2(s)
	c.brings(again, false, texts("token", canary))
	r = c.rollout(again)
	c.reloadPending(r, false)
	c.restarts(r, false)
	c.refusesCheck(r, false, "not been noticed yet", "old-1, old-2")

	c.says(map[string]any{"replicas": 3, "updatedReplicas": 1, "availableReplicas": 2})
	c.pod("new-1")
	c.refusesCheck(r, false, "2 pods hold what the Secret held before: old-1, old-2")
	if all, old := r.Pods(); all != 3 || old != 2 {
		t.Errorf("%d pods, %d old", all, old)
	}
	c.gone("old-1")
	c.end("old-1")
	c.end("old-2")
	c.pod("new-2")
	c.says(map[string]any{"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2})
	c.refusesCheck(r, false, "1 pods", "old-2 (being ended)") // though the Deployment says that it is done
	c.gone("old-2")
	if err := r.Check(t.Context(), ""); err != nil {
		t.Error(err)
	}
	// Two changes within a second are two restarts.
	for range 2 {
		before := c.live().Spec.Template.Metadata.Annotations[restartedAt]
		c.brings(again, true, texts("token", canary+before))
		c.restarts(r, true)
		if now := c.live().Spec.Template.Metadata.Annotations[restartedAt]; now == before {
			t.Error("the second restart is the first")
		}
	}
	c.refusesCheck(r, false, "not been noticed") // what was settled is another change
}

func (c controlled) refusesCheck(r *Rollout, proven bool, words ...string) {
	c.t.Helper()
	err := r.Check(c.t.Context(), "")
	refuses(c.t, err, words...)
	if health.Proven(err) != proven {
		c.t.Errorf("a verdict: %v: %v", !proven, err)
	}
}

func TestRolloutThatMakesNoProgress(t *testing.T) {
	c := newCluster(t, true).workload("deployment", "")
	s := c.secret()
	c.brings(s, true, texts("token", canary))
	r := c.rollout(s)
	c.restarts(r, true)
	c.says(map[string]any{"replicas": 3, "updatedReplicas": 1, "availableReplicas": 2, "conditions": []any{
		map[string]any{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": `ReplicaSet "prometheus-5c" has timed out progressing.`},
	}})
	c.refusesCheck(r, true, "ProgressDeadlineExceeded", "has timed out progressing")
	c.says(map[string]any{"replicas": 2, "updatedReplicas": 2, "availableReplicas": 1, "conditions": []any{
		map[string]any{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"},
	}})
	c.refusesCheck(r, false, "exceeded quota")
	c.says(map[string]any{"replicas": 2, "updatedReplicas": 2, "availableReplicas": 1, "conditions": []any{}})
	c.refusesCheck(r, false, "1 of 2 new pods are available")
}

func TestRolloutThatWouldRestartNothing(t *testing.T) {
	c := newCluster(t, true).workload("deployment", "paused: true")
	s := c.secret()
	c.brings(s, true, texts("token", canary))
	r := c.rollout(s)
	refuses(t, r.Reload(t.Context()), "is paused", "rollout resume deployment/prometheus")
	c.kubectl("rollout", "resume", "deployment/prometheus")
	c.restarts(r, true)
	c.kubectl("delete", "deployment", "prometheus")
	refuses(t, r.Reload(t.Context()), "404 NotFound", "create it, or mend name and namespace")
	missing := c.rollout(s)
	missing.Name = "api"
	refuses(t, missing.Reload(t.Context()), "403", `the verb "get" on deployments.apps with the name "api"`)
}

// A StatefulSet, and a DaemonSet, as their controllers tell.
func TestRolloutsOfOtherKinds(t *testing.T) {
	for _, test := range []struct {
		kind, bad, words string
		under, done      map[string]any
	}{
		{
			"statefulset", "updateStrategy: {type: OnDelete}", "OnDelete",
			map[string]any{"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "currentRevision": "a", "updateRevision": "b"},
			map[string]any{"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "currentRevision": "b", "updateRevision": "b"},
		},
		{
			"statefulset", "updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 1}}", "partition of 1",
			map[string]any{"replicas": 2, "updatedReplicas": 1, "availableReplicas": 2, "currentRevision": "a", "updateRevision": "b"},
			map[string]any{"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "currentRevision": "b", "updateRevision": "b"},
		},
		{
			"daemonset", "updateStrategy: {type: OnDelete}", "OnDelete",
			map[string]any{"currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 2, "desiredNumberScheduled": 2, "updatedNumberScheduled": 1, "numberAvailable": 2},
			map[string]any{"currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 2, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2},
		},
	} {
		t.Run(test.kind+" "+test.words, func(t *testing.T) {
			c := newCluster(t, true).workload(test.kind, test.bad)
			resource := Kinds[test.kind]
			c.kubectl("create", "role", "more", "--verb=get,patch", "--resource="+resource+".apps", "--resource-name=prometheus")
			c.kubectl("create", "rolebinding", "more", "--role=more", "--serviceaccount="+c.ns+":"+account)
			s := c.secret()
			c.brings(s, true, texts("token", canary))
			r := c.rollout(s)
			refuses(t, r.Reload(t.Context()), test.words)
			if err := c.Patch(t.Context(), c.path(), "application/merge-patch+json", []byte(`{"spec":{"updateStrategy":{"type":"RollingUpdate","rollingUpdate":null}}}`), nil); err != nil {
				t.Fatal(err)
			}
			c.restarts(r, true)
			c.says(test.under)
			if err := r.Check(t.Context(), ""); err == nil {
				t.Error("what is under way has ended")
			}
			c.says(test.done)
			if err := r.Check(t.Context(), ""); err != nil {
				t.Error(err)
			}
		})
	}
}

// With no pods, nobody reads what was before. One that somebody takes the note from is restarted again.
func TestRolloutOfNothing(t *testing.T) {
	c := newCluster(t, true).workload("deployment", "")
	c.kubectl("scale", "deployment/prometheus", "--replicas=0")
	s := c.secret()
	c.brings(s, true, texts("token", canary))
	r := c.rollout(s)
	c.restarts(r, true)
	c.says(map[string]any{"replicas": 0})
	if err := r.Check(t.Context(), ""); err != nil {
		t.Error(err)
	}
	c.kubectl("annotate", "deployment/prometheus", "unrelated=1")
	c.reloadPending(r, false)
	if err := c.Patch(t.Context(), c.path(), "application/merge-patch+json", []byte(`{"spec":{"template":{"metadata":{"annotations":null}}}}`), nil); err != nil {
		t.Fatal(err)
	}
	c.reloadPending(r, true)
	c.restarts(r, true)
}

// That the API server is away is no word on a workload that was well, for a while.
func TestRolloutWhileTheServerIsAway(t *testing.T) {
	c := newCluster(t, true).workload("deployment", "")
	s := c.secret()
	c.brings(s, true, texts("token", canary))
	r := c.rollout(s)
	c.restarts(r, true)
	c.says(map[string]any{"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2})
	address := c.client.Address
	c.client.Address = "https://127.0.0.1:1"
	c.refusesCheck(r, false, "does not answer") // it was never well
	c.client.Address = address
	if err := r.Check(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	c.client.Address = "https://127.0.0.1:1"
	at := func(ago time.Duration) { r.at = time.Now().Add(-ago) }
	if at(settledLook + time.Second); r.Check(t.Context(), "") != nil {
		t.Error("a moment without the server is held against it")
	}
	at(maxAway + time.Second)
	c.refusesCheck(r, false, "does not answer")
}

func TestTemplateKey(t *testing.T) {
	long := "a.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	for name, want := range map[string]string{"metrics-auth": "secret.hyvve.app/metrics-auth", long: ""} {
		got := templateKey(name)
		if want != "" && got != want {
			t.Errorf("%s: %s", name, got)
		}
		if err := checkQualified("annotations", "x"+got[len("secret.hyvve.app"):]); err != nil {
			t.Errorf("%s is no key: %v", got, err)
		}
	}
	if templateKey(long+"1") == templateKey(long+"2") {
		t.Error("two Secrets have one key")
	}
}
