// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestSecretIsWrittenOnceForEachChange(t *testing.T) {
	c := newCluster(t, true)
	s := c.secret()
	s.Labels, s.Annotations = map[string]string{"app": "metrics"}, map[string]string{"example.org/team": "platform"}
	c.brings(s, true, texts("token", canary+"-1", "other", "x"))
	first := c.live("metrics-auth")
	if string(first.Data["token"]) != canary+"-1" || first.Type != "Opaque" || first.Metadata.Labels["app"] != "metrics" || first.Metadata.Annotations["example.org/team"] != "platform" {
		t.Errorf("it is %+v", first)
	}
	c.brings(s, false, texts("token", canary+"-1", "other", "x"))
	c.brings(c.secret2(s), false, texts("token", canary+"-1", "other", "x")) // of a sidecar that was restarted
	if now := c.live("metrics-auth"); now.Metadata.Version != first.Metadata.Version {
		t.Error("the same was written again")
	}
	s.Labels = map[string]string{"app": "other"} // which no pod reads
	c.brings(s, false, texts("token", canary+"-1", "other", "x"))
	second := c.live("metrics-auth")
	if second.Metadata.Labels["app"] != "other" || second.Metadata.Annotations[changedKey] != first.Metadata.Annotations[changedKey] {
		t.Errorf("it is %+v", second)
	}
	s.Labels, s.Annotations = nil, nil
	c.brings(s, true, texts("token", canary+"-2"))
	third := c.live("metrics-auth")
	if len(third.Data) != 1 || len(third.Metadata.Labels) > 0 || len(third.Metadata.Annotations) != 1 || third.Metadata.Annotations[changedKey] == first.Metadata.Annotations[changedKey] {
		t.Errorf("what is no longer wanted stays: %+v", third)
	}
}

// secret2 is the same as a sidecar sees it that knows nothing.
func (c *cluster) secret2(s *Secret) *Secret {
	return &Secret{Client: s.Client, Namespace: s.Namespace, Name: s.Name, Type: s.Type, Labels: s.Labels, Annotations: s.Annotations, Force: s.Force}
}

// With the Role of the docs the sidecar works with a Secret that is there, makes none, and may do nothing else.
func TestRoleOfTheDocsIsEnoughAndNoMore(t *testing.T) {
	c := newCluster(t, false)
	_, err := bring(t.Context(), c.secret(), texts("token", canary))
	refuses(t, err, "403", `the verb "patch" on secrets with the name "metrics-auth" in namespace "`+c.ns, `create secret generic metrics-auth`)

	c.kubectl("create", "secret", "generic", "metrics-auth")
	c.brings(c.secret(), true, texts("token", canary))
	c.brings(c.secret(), true, texts("token", canary+"-2"))

	c.kubectl("create", "secret", "generic", "another")
	another := c.secret()
	another.Name = "another"
	_, err = bring(t.Context(), another, texts("token", canary))
	refuses(t, err, "403 Forbidden", `the verb "get" on secrets with the name "another"`, "docs/kubernetes-secret.md")

	who := "--as=system:serviceaccount:" + c.ns + ":" + account
	for _, may := range []string{"get secrets/metrics-auth", "patch secrets/metrics-auth", "get deployments.apps/prometheus", "patch deployments.apps/prometheus", "list pods"} {
		if out := c.can(who, may); out != "yes" {
			t.Errorf("%s: %s", may, out)
		}
	}
	for _, mayNot := range []string{
		"delete secrets/metrics-auth", "update secrets/metrics-auth", "list secrets", "watch secrets", "create secrets", "get secrets/another", "get secrets",
		"update deployments.apps/prometheus", "delete deployments.apps/prometheus", "patch deployments.apps/api", "list deployments.apps",
		"get pods", "delete pods", "create pods", "get pods/log", "create pods/exec", "patch deployments.apps/scale", "list configmaps",
	} {
		if out := c.can(who, mayNot); out != "no" {
			t.Errorf("%s: %s", mayNot, out)
		}
	}
}

func (c *cluster) can(who, what string) string {
	c.t.Helper()
	// Its status is 1 if the answer is no.
	out, err := c.Kubectl(c.t.Context(), "", append([]string{"-n", c.ns, "auth", "can-i", who}, strings.Fields(what)...)...)
	if out = strings.TrimSpace(out); out == "" {
		c.t.Fatal(err)
	}
	return strings.Fields(out)[0]
}

func TestSecretThatSomebodyElseManages(t *testing.T) {
	c := newCluster(t, true)
	c.kubectl("create", "secret", "generic", "metrics-auth", "--from-literal=token=theirs", "--field-manager=their-pipeline")
	s := c.secret()
	_, err := bring(t.Context(), s, texts("token", canary))
	refuses(t, err, `data.token is managed by "their-pipeline"`, "set force = true")
	if string(c.live("metrics-auth").Data["token"]) != "theirs" {
		t.Error("it was overwritten")
	}
	_, err = bring(t.Context(), s, texts("token", "theirs")) // which would be a conflict only once it changes
	refuses(t, err, `data.token is managed by "their-pipeline"`, "set force = true")
	s.Force = true
	c.brings(s, true, texts("token", "theirs"))
	c.brings(s, true, texts("token", canary))
	if string(c.live("metrics-auth").Data["token"]) != canary {
		t.Error("it was not taken over")
	}
	// What is not the sidecar's stays.
	if err := c.Patch(t.Context(), "/api/v1/namespaces/"+c.ns+"/secrets/metrics-auth", "application/merge-patch+json", []byte(`{"data":{"theirs":"eA=="}}`), nil); err != nil {
		t.Fatal(err)
	}
	c.brings(s, false, texts("token", canary))
	c.brings(s, true, texts("token", canary+"-2"))
	if string(c.live("metrics-auth").Data["theirs"]) != "x" {
		t.Error("a key of somebody else is gone")
	}
}

func TestSecretThatCannotBeChanged(t *testing.T) {
	c := newCluster(t, true)
	c.kubectl("create", "secret", "generic", "metrics-auth", "--type=example.org/other")
	_, err := bring(t.Context(), c.secret(), texts("token", canary))
	refuses(t, err, `has type "example.org/other"`, `"Opaque"`, "delete the Secret")
	if err := c.Patch(t.Context(), "/api/v1/namespaces/"+c.ns+"/secrets/metrics-auth", "application/merge-patch+json", []byte(`{"immutable":true}`), nil); err != nil {
		t.Fatal(err)
	}
	s := c.secret()
	s.Type = "example.org/other"
	_, err = bring(t.Context(), s, texts("token", canary))
	refuses(t, err, "is immutable", "delete it")
	_, err = bring(t.Context(), s, texts("token", strings.Repeat(canary, 1<<16)))
	refuses(t, err, "takes 1048576", "choose with keys")
	s = c.secret()
	s.Name, s.Type = "metrics-tls", "kubernetes.io/tls"
	c.kubectl("create", "role", "more", "--verb=get,patch", "--resource=secrets", "--resource-name=metrics-tls")
	c.kubectl("create", "rolebinding", "more", "--role=more", "--serviceaccount="+c.ns+":"+account)
	_, err = bring(t.Context(), s, texts("token", canary))
	refuses(t, err, "422 Invalid", "tls.crt", "mend the render")
}

// A change of the Secret between the read and the write is noticed, and not overwritten unseen.
func TestSecretChangedBetweenLookAndWrite(t *testing.T) {
	c := newCluster(t, true)
	s := c.secret()
	c.brings(s, true, texts("token", canary))
	plan, err := s.Prepare(t.Context(), texts("token", canary+"-2"))
	if err != nil {
		t.Fatal(err)
	}
	if string(c.live("metrics-auth").Data["token"]) != canary {
		t.Error("a look has written")
	}
	c.kubectl("label", "secret", "metrics-auth", "seen=by-others")
	_, err = plan.Commit(t.Context())
	refuses(t, err, "409 Conflict", "tried again")
	c.brings(s, true, texts("token", canary+"-2"))
}

func TestSecretDeletedOrChangedByOthers(t *testing.T) {
	c := newCluster(t, true)
	s := c.secret()
	c.brings(s, true, texts("token", canary))
	drifted := func(s *Secret, want bool) {
		t.Helper()
		if is, err := s.Drifted(t.Context()); err != nil || is != want {
			t.Errorf("drifted: %v (%v)", is, err)
		}
	}
	drifted(s, false)
	before := c.live("metrics-auth").Metadata.Annotations[changedKey]
	c.kubectl("delete", "secret", "metrics-auth")
	drifted(s, true)
	c.brings(s, false, texts("token", canary)) // pods hold the same
	if now := c.live("metrics-auth").Metadata.Annotations[changedKey]; now != before {
		t.Error("a Secret with the same content counts as another one")
	}
	drifted(s, false)
	s.Force = true
	if err := c.Patch(t.Context(), "/api/v1/namespaces/"+c.ns+"/secrets/metrics-auth", "application/merge-patch+json", []byte(`{"data":{"token":"eA=="}}`), nil); err != nil {
		t.Fatal(err)
	}
	drifted(s, true)
	later := c.live("metrics-auth").Metadata.Annotations[changedKey]
	c.brings(s, true, texts("token", canary)) // which may have been read
	if now := c.live("metrics-auth").Metadata.Annotations[changedKey]; now == later {
		t.Error("pods that have read something else are not known")
	}
	if newer, err := s.ChangedAfter(t.Context(), time.Now().Add(-time.Hour), texts("token", "older")); err != nil || !newer {
		t.Errorf("newer than an hour ago: %v (%v)", newer, err)
	}
	if newer, err := s.ChangedAfter(t.Context(), time.Now().Add(time.Hour), texts("token", "older")); err != nil || newer {
		t.Errorf("newer than in an hour: %v (%v)", newer, err)
	}
}

// A token that is refused is read again; one that stays bad is said, and not quoted.
func TestTokenIsReadAnew(t *testing.T) {
	c := newCluster(t, true)
	s := c.secret()
	c.brings(s, true, texts("token", "1"))
	good, err := c.Token(t.Context(), c.ns, account)
	if err != nil {
		t.Fatal(err)
	}
	c.write(c.tokenPath, canary+"-token")
	_, err = bring(t.Context(), s, texts("token", "2"))
	refuses(t, err, "401", "token_path")
	c.write(c.tokenPath, canary+"\n"+canary)
	_, err = bring(t.Context(), s, texts("token", "2"))
	refuses(t, err, "does not hold a token")
	c.write(c.tokenPath, good)
	c.brings(s, true, texts("token", "2"))
}

func TestAuthorityIsReadAnew(t *testing.T) {
	c := newCluster(t, true)
	path := c.tokenPath + ".ca"
	c.write(path, "none")
	c.client.CACert = path
	_, err := bring(t.Context(), c.secret(), texts("token", "1"))
	refuses(t, err, "ca_cert", "no certificate")
	c.client.CACert = ""
	_, err = bring(t.Context(), c.secret(), texts("token", "1"))
	refuses(t, err, "does not answer", "certificate")
	if !Away(err) {
		t.Error("that is not away")
	}
	c.client.CACert = c.CAFile
	c.brings(c.secret(), true, texts("token", "1"))
}

func TestCheck(t *testing.T) {
	good := Secret{Namespace: "monitoring", Name: "metrics-auth"}
	for what, change := range map[string]func(s *Secret) (keys []string){
		`name = "Metrics"`:          func(s *Secret) []string { s.Name = "Metrics"; return nil },
		"name is missing":           func(s *Secret) []string { s.Name = ""; return nil },
		"namespace is missing":      func(s *Secret) []string { s.Namespace = ""; return nil },
		`namespace = "a.b"`:         func(s *Secret) []string { s.Namespace = "a.b"; return nil },
		`data: "a/b"`:               func(*Secret) []string { return []string{"a/b"} },
		`data: ".."`:                func(*Secret) []string { return []string{".."} },
		`needs "tls.key"`:           func(s *Secret) []string { s.Type = "kubernetes.io/tls"; return []string{"tls.crt"} },
		"for Kubernetes to fill in": func(s *Secret) []string { s.Type = "kubernetes.io/service-account-token"; return nil },
		`labels: "a b"`:             func(s *Secret) []string { s.Labels = map[string]string{"a b": "c"}; return nil },
		`the value of "a"`:          func(s *Secret) []string { s.Labels = map[string]string{"a": "b c"}; return nil },
		"the sidecar's own":         func(s *Secret) []string { s.Annotations = map[string]string{"hyvve.app/changed": "c"}; return nil },
	} {
		s := good
		keys := change(&s)
		refuses(t, s.Check(keys), what)
	}
	if err := good.Check([]string{"token", "a.b_c-D"}); err != nil {
		t.Error(err)
	}
}

// Another's webhook may quote what it refuses.
func TestMasked(t *testing.T) {
	s := Secret{Namespace: "a", Name: "b"}
	err := s.masked(&Error{Code: http.StatusBadRequest, Message: `denied: {"data":{"token":"Y2FuYXJ5LXNlY3JldC12YWx1ZQ=="}} ` + canary}, texts("token", canary))
	refuses(t, err, "denied", "[redacted]")
	other := errors.New("other")
	if s.masked(other, nil) != other { //nolint:errorlint // the same is meant
		t.Error("another error is another one")
	}
}
