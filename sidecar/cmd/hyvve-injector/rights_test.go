// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// TestInjector checks which pods depend on the webhook, what its refusals say, and how the injector ends.
func TestInjector(t *testing.T) {
	c := newCluster(t)
	// Before there is any injector: pods that ask for none depend on none.
	if _, err := c.create(t.Context(), c.shop, map[string]string{"a": "b"}); err != nil {
		t.Errorf("a pod without annotations of ours: %v", err)
	}
	if _, err := c.create(t.Context(), c.shop, wanted); err == nil {
		t.Error("a pod that asks for a sidecar comes up without one")
	}
	r := c.start("one", "--drain=1s", "--ca-propagation=1s", "--lease-duration=3s")
	c.awaitReady(r)
	p, err := c.create(t.Context(), c.shop, wanted)
	c.must(err)
	if len(p.Spec.InitContainers) != 1 || p.Spec.InitContainers[0].Image != "registry.example/hyvve-sidecar:1" {
		t.Errorf("%+v", p.Spec.InitContainers)
	}
	_, err = c.create(t.Context(), c.shop, map[string]string{"hyvve.app/inject": "true", "hyvve.app/worklod": "canary"})
	if status := apierrors.APIStatus(nil); !errors.As(err, &status) || status.Status().Code != http.StatusUnprocessableEntity || !strings.Contains(err.Error(), "hyvve.app/worklod") || !strings.Contains(err.Error(), webhookName) {
		t.Errorf("a misspelt annotation: %v", err)
	}
	if p, err := c.create(t.Context(), c.namespace, wanted); err != nil || len(p.Spec.InitContainers) > 0 {
		t.Errorf("in the injector's own namespace: %v", err)
	}
	for metric, want := range map[string]string{
		`hyvve_injector_reviews_total{result="injected"}`: "2", // the server asks again when it has put its own into a pod
		`hyvve_injector_reviews_total{result="refused"}`:  "1", "hyvve_injector_ready": "1", "hyvve_injector_leader": "1",
		"hyvve_injector_ca_generation": "1", "hyvve_injector_ca_authorities": "1",
	} {
		if got := r.metric(metric); got != want {
			t.Errorf("%s is %q, want %s", metric, got, want)
		}
	}
	if status, _ := r.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz answers %d", status)
	}
	c.must(r.Stop())
	log, err := os.ReadFile(r.LogPath)
	c.must(err)
	if strings.Contains(string(log), "canary") || !strings.Contains(string(log), "injector ended") {
		t.Errorf("%s", log)
	}
	var secret struct{ Data map[string][]byte }
	c.must(c.k.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/"+c.namespace+"/secrets/"+c.secret(), nil, &secret))
	if _, stays := secret.Data["replica.one"]; stays {
		t.Error("who has ended in good order still has a word")
	}
}

const webhookName = "inject.hyvve.app"

// The account can do what the injector does, as all other tests here show, and nothing else.
func TestRightsAreNoWider(t *testing.T) {
	c := newCluster(t)
	can := func(verb, what string, more ...string) bool {
		args := append([]string{"auth", "can-i", verb, what, "--as=system:serviceaccount:" + c.namespace + ":" + c.name}, more...)
		answer, err := c.k.Kubectl(t.Context(), "", args...)
		if answer = strings.TrimSpace(answer); answer != "yes" && !strings.HasPrefix(answer, "no") {
			t.Fatalf("%v: %q, %v", args, answer, err)
		}
		return answer == "yes"
	}
	own, shop := "--namespace="+c.namespace, "--namespace="+c.shop
	allowed := map[string][]string{"secrets/" + c.secret(): {"get", "list", "watch", "update"}, "leases.coordination.k8s.io/" + c.name: {"get", "update"}, "mutatingwebhookconfigurations.admissionregistration.k8s.io/" + c.name: {"list", "watch", "patch"}}
	for what, verbs := range allowed {
		for _, verb := range []string{"get", "list", "watch", "update", "patch", "delete"} {
			if want := strings.Contains(" "+strings.Join(verbs, " ")+" ", " "+verb+" "); can(verb, what, own) != want {
				t.Errorf("%s %s: want %v", verb, what, want)
			}
		}
		kind, _, _ := strings.Cut(what, "/")
		for _, verb := range []string{"get", "list", "watch", "update", "patch", "delete", "deletecollection"} {
			if can(verb, kind, own) || can(verb, kind+"/other", own) || can(verb, what, shop) && !strings.HasPrefix(kind, "mutating") {
				t.Errorf("%s of other %s is allowed", verb, kind)
			}
		}
	}
	for _, kind := range []string{"pods", "configmaps", "serviceaccounts", "events", "validatingwebhookconfigurations", "namespaces", "nodes"} {
		for _, verb := range []string{"get", "list", "create", "patch", "delete"} {
			if can(verb, kind, own) {
				t.Errorf("%s %s is allowed", verb, kind)
			}
		}
	}
	if can("create", "mutatingwebhookconfigurations") || can("create", "secrets", shop) || !can("create", "secrets", own) || !can("create", "leases", own) {
		t.Error("what may be created is another than is meant")
	}
}
