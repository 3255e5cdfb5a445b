// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject/webhook"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func TestMain(m *testing.M) { bed.Main(m) }

// binary builds the command as it is shipped, once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hyvve-injector-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "hyvve-injector")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, output)
	}
	return path, nil
})

// cluster is an API server that asks injectors of ours, by way of a port of the test's own in the place of a Service.
type cluster struct {
	t         *testing.T
	k         *bed.Kubernetes
	bed       *bed.Bed
	namespace string // of the injector
	shop      string // of the pods
	name      string // of the MutatingWebhookConfiguration, and of everything
	account   string // kubeconfig
	service   *service
	replicas  []*replica
}

type replica struct {
	*bed.Program
	name, listen, status string
}

// newCluster sets up everything but the injectors: exactly the rights of rbac.yaml, and a configuration by URL.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	k, namespace := bed.Namespace(t)
	c := &cluster{t: t, k: k, bed: bed.ForTest(t), namespace: namespace, shop: namespace + "-shop", name: "injector-" + namespace}
	c.must(k.Namespace(t.Context(), c.shop, nil))
	roles := strings.NewReplacer("hyvve-injector-certificates", c.secret(), "hyvve-injector", c.name, "namespace: hyvve", "namespace: "+namespace).Replace(webhook.RBAC)
	c.must(k.Apply(t.Context(), roles))
	var err error
	c.account, err = k.KubeconfigOf(t.Context(), namespace, c.name)
	c.must(err)
	c.service = newService(t)
	c.must(k.Do(t.Context(), http.MethodPost, configurations, c.configuration(), nil))
	t.Cleanup(func() { // no other test is to depend on what ends with this one
		if err := k.Do(context.Background(), http.MethodDelete, configurations+"/"+c.name, nil, nil); err != nil {
			t.Error(err)
		}
	})
	return c
}

const configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"

func (c *cluster) secret() string { return c.name + "-tls" }

func (c *cluster) configuration() *admissionv1.MutatingWebhookConfiguration {
	configuration := webhook.Configuration(c.name, c.namespace, "unused")
	url := "https://" + c.service.address() + webhook.Path
	w := &configuration.Webhooks[0]
	w.ClientConfig = admissionv1.WebhookClientConfig{URL: &url}
	w.NamespaceSelector.MatchExpressions[0].Operator = "In" // tests share a server: let them not share injectors
	w.NamespaceSelector.MatchExpressions[0].Values = []string{c.shop, c.namespace}
	return configuration
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// short lets certificates live for seconds.
var short = []string{"--ca-lifetime=24s", "--cert-lifetime=8s", "--ca-propagation=1s", "--ca-retire-after=2s", "--lease-duration=3s", "--drain=2s"}

// start starts a replica.
func (c *cluster) start(name string, flags ...string) *replica {
	c.t.Helper()
	path, err := binary()
	c.must(err)
	r := &replica{name: name}
	r.Program, err = c.bed.Program(name, path, append([]string{
		"--image=registry.example/hyvve-sidecar:1", "--vault-addr=https://vault.vault:8200", "--kubeconfig=" + c.account,
		"--namespace=" + c.namespace, "--replica=" + name, "--service=" + c.name, "--configuration=" + c.name, "--lease=" + c.name,
		"--secret=" + c.secret(), "--listen=127.0.0.1:0", "--status-listen=127.0.0.1:0",
	}, flags...), nil)
	c.must(err)
	kit.Until(c.t, name+" listens", func() bool { return r.started() || !r.Running() }, r.Tail)
	c.replicas = append(c.replicas, r)
	c.service.add(r)
	return r
}

// started takes the addresses from what the replica says first.
func (r *replica) started() bool {
	log, err := os.ReadFile(r.LogPath)
	for line := range strings.Lines(string(log)) {
		var said struct{ Msg, Listen, Status string }
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "injector started" {
			r.listen, r.status = said.Listen, said.Status
		}
	}
	return err == nil && r.status != ""
}

func (r *replica) get(path string) (status int, text string) {
	answer, err := http.Get("http://" + r.status + path)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(data)
}

func (r *replica) ready() bool { status, _ := r.get("/readyz"); return status == http.StatusOK }

func (r *replica) metric(name string) string {
	_, text := r.get("/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// awaitReady waits for replicas, with what they say if it does not come to that.
func (c *cluster) awaitReady(all ...*replica) {
	c.t.Helper()
	for _, r := range all {
		kit.Until(c.t, r.name+" is ready", r.ready, func() string { _, text := r.get("/readyz"); return text }, r.Tail)
	}
}

// create makes a pod that asks for a sidecar, without keeping it, and returns it as it came out.
func (c *cluster) create(ctx context.Context, namespace string, annotations map[string]string) (p corev1.Pod, err error) {
	pod := map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"generateName": "api-", "annotations": annotations},
		"spec": map[string]any{
			"securityContext": map[string]any{"runAsUser": 1000},
			"containers":      []any{map[string]any{"name": "api", "image": "api:1"}},
		},
	}
	return p, c.k.Do(ctx, http.MethodPost, "/api/v1/namespaces/"+namespace+"/pods?dryRun=All", pod, &p)
}

var wanted = map[string]string{"hyvve.app/inject": "true", "hyvve.app/workload": "api"}

// service passes connections on to replicas that are ready, as a Service does.
type service struct {
	listener net.Listener
	mu       sync.Mutex
	replicas []*replica
	next     int
}

func newService(t *testing.T) *service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := &service{listener: l}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go s.pass(client)
		}
	}()
	return s
}

func (s *service) address() string { return s.listener.Addr().String() }

func (s *service) add(r *replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicas = append(s.replicas, r)
}

func (s *service) choose() *replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range s.replicas {
		s.next++
		if r := s.replicas[s.next%len(s.replicas)]; r.Running() && r.ready() {
			return r
		}
	}
	return nil
}

func (s *service) pass(client net.Conn) {
	defer client.Close() //nolint:errcheck // it has ended
	r := s.choose()
	if r == nil {
		return
	}
	server, err := net.Dial("tcp", r.listen)
	if err != nil {
		return
	}
	var both sync.WaitGroup
	carry := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // until one of the two is gone
		_ = to.(*net.TCPConn).CloseWrite()
	}
	both.Go(func() { carry(server, client) })
	both.Go(func() { carry(client, server) })
	both.Wait()
	_ = server.Close()
}

// stream creates pods by several hands until it is stopped.
type stream struct {
	stop     context.CancelFunc
	hands    sync.WaitGroup
	mu       sync.Mutex
	created  int
	refusals []string
}

func (c *cluster) stream() *stream {
	ctx, stop := context.WithCancel(c.t.Context())
	s := &stream{stop: stop}
	for range 4 {
		s.hands.Go(func() {
			for ctx.Err() == nil {
				p, err := c.create(ctx, c.shop, wanted)
				if err == nil && len(p.Spec.InitContainers) == 0 {
					err = errors.New("it came out without a sidecar")
				}
				s.mu.Lock()
				if err == nil {
					s.created++
				} else if ctx.Err() == nil {
					s.refusals = append(s.refusals, time.Now().Format("15:04:05.000 ")+err.Error())
				}
				s.mu.Unlock()
			}
		})
	}
	return s
}

// end returns how many pods were created, and what was said of the others.
func (s *stream) end() (int, []string) {
	s.stop()
	s.hands.Wait()
	return s.created, s.refusals
}

// The webhook's own TLS rotates by itself, authorities and all, under a stream of pods; replicas come and go in good order
// meanwhile, the elected one first. No pod is refused.
func TestNoPodIsRefused(t *testing.T) {
	c := newCluster(t)
	one, two := c.start("one", short...), c.start("two", short...)
	c.awaitReady(one, two)
	begun := generation(c, one)
	pods := c.stream()
	for n := range 2 { // a rolling update of both
		kit.Until(t, "another authority took over", func() bool { return generation(c, two) >= begun+1+n }, two.Tail)
		leaving := c.elected()
		next := c.start(fmt.Sprintf("next-%d", n), short...)
		c.awaitReady(next)
		c.must(leaving.Stop())
		if one == leaving {
			one = next
		} else {
			two = next
		}
	}
	kit.Until(t, "another authority took over", func() bool { return generation(c, two) >= begun+3 }, two.Tail)
	created, refusals := pods.end()
	t.Logf("%d pods were created while authorities %d to %d took over; %d were refused", created, begun, generation(c, two), len(refusals))
	if len(refusals) > 0 || created < 50 {
		t.Errorf("%d of %d pods were refused, the first: %s", len(refusals), created+len(refusals), refusals[:min(3, len(refusals))])
	}
	for _, r := range c.replicas {
		log, err := os.ReadFile(r.LogPath)
		c.must(err)
		if strings.Contains(string(log), "PRIVATE") || strings.Contains(string(log), `"level":"ERROR"`) {
			t.Errorf("the log of %s:\n%s", r.name, log)
		}
	}
}

func generation(c *cluster, r *replica) (n int) {
	_, _ = fmt.Sscan(r.metric("hyvve_injector_ca_generation"), &n) // 0 otherwise
	return n
}

// elected waits for the replica that makes certificates, and returns it.
func (c *cluster) elected() (r *replica) {
	c.t.Helper()
	kit.Until(c.t, "one is elected", func() bool {
		n := slices.IndexFunc(c.replicas, func(r *replica) bool { return r.Running() && r.metric("hyvve_injector_leader") == "1" })
		if n >= 0 {
			r = c.replicas[n]
		}
		return n >= 0
	})
	return r
}

// The elected replica is killed again and again, whatever it is at; the other continues, and certificates with it.
func TestElectedReplicaIsKilled(t *testing.T) {
	c := newCluster(t)
	c.start("replica-0", short...)
	c.start("replica-1", short...)
	c.awaitReady(c.replicas...)
	begun := generation(c, c.replicas[0])
	for n := range 6 {
		victim := c.elected()
		victim.Kill()
		c.start(fmt.Sprintf("replica-%d", n+2), short...)
		next := c.elected()
		if next == victim {
			t.Fatal("who was killed is still elected")
		}
		before := generation(c, next)
		kit.Until(t, "certificates go on", func() bool {
			return generation(c, next) > before || next.metric("hyvve_injector_certificate_expiry_timestamp_seconds") != "0" && next.ready()
		}, next.Tail)
	}
	last := c.elected()
	kit.Until(t, "authorities took over", func() bool { return generation(c, last) > begun+1 }, last.Tail)
	kit.Until(t, "pods are created", func() bool { _, err := c.create(t.Context(), c.shop, wanted); return err == nil })
}

// Whatever somebody does to what the injectors keep, they mend it, and no replica presents anything else meanwhile.
func TestMended(t *testing.T) {
	c := newCluster(t)
	long := []string{"--ca-propagation=1s", "--lease-duration=3s", "--drain=0s"}
	one, two := c.start("one", long...), c.start("two", long...)
	c.awaitReady(one, two)
	secrets := "/api/v1/namespaces/" + c.namespace + "/secrets/" + c.secret()
	record := func() string {
		var s corev1.Secret
		if c.k.Do(t.Context(), http.MethodGet, secrets, nil, &s) != nil {
			return ""
		}
		return string(s.Data["record.json"])
	}
	bundle := func() string {
		var m admissionv1.MutatingWebhookConfiguration
		if c.k.Do(t.Context(), http.MethodGet, configurations+"/"+c.name, nil, &m) != nil {
			return ""
		}
		return string(m.Webhooks[0].ClientConfig.CABundle)
	}
	merge := func(path string, change any) {
		c.must(c.k.Patch(t.Context(), path, "application/merge-patch+json", change, nil))
	}
	kept, held := record(), bundle()
	for name, harm := range map[string]func(){
		"Secret deleted": func() { c.must(c.k.Do(t.Context(), http.MethodDelete, secrets, nil, nil)) },
		"Secret spoiled": func() { merge(secrets, map[string]any{"data": map[string]any{"record.json": []byte("{")}}) },
		"Secret emptied": func() { merge(secrets, map[string]any{"data": nil}) },
		"caBundle reset": func() {
			c.must(c.k.Patch(t.Context(), configurations+"/"+c.name, "application/json-patch+json", []byte(`[{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]`), nil))
		},
		"configuration made again": func() {
			c.must(c.k.Do(t.Context(), http.MethodDelete, configurations+"/"+c.name, nil, nil))
			c.must(c.k.Do(t.Context(), http.MethodPost, configurations, c.configuration(), nil))
		},
	} {
		harm()
		kit.Until(t, name+" is mended", func() bool { return authorities(record()) == authorities(kept) && bundle() == held }, one.Tail, two.Tail)
		c.awaitReady(one, two)
		kit.Until(t, "pods are created after: "+name, func() bool { _, err := c.create(t.Context(), c.shop, wanted); return err == nil })
	}
	// Nobody remembers: authorities are new, and what replicas may still present is kept in caBundle.
	one.Kill()
	two.Kill()
	c.must(c.k.Do(t.Context(), http.MethodDelete, secrets, nil, nil))
	three := c.start("three", long...)
	c.awaitReady(three)
	if now := bundle(); !strings.Contains(now, strings.TrimSpace(held)) || now == held {
		t.Error("the authority before is not kept beside the new one")
	}
	if _, err := c.create(t.Context(), c.shop, wanted); err != nil {
		t.Error(err)
	}
}

// authorities are the fingerprintable part of a record: what people and clocks do not change.
func authorities(record string) string {
	var r struct {
		Authorities []struct{ Certificate []byte }
	}
	if json.Unmarshal([]byte(record), &r) != nil {
		return ""
	}
	return fmt.Sprintf("%x", r.Authorities)
}
