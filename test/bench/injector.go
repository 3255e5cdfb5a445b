// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const (
	reviewClients  = 16
	reviewRounds   = 5
	reviewsRound   = 4000
	reviewsASecond = 500 // of those whose latency is measured
	reviewsFor     = 20 * time.Second
	barReviewRate  = 1500 // /s
	barReviewP99   = 10   // ms
	barReviewRSS   = 60   // MB
)

// injected measures the injector as an API server uses it: HTTP/1.1 over TLS, by connections that are kept. Nothing comparable
// is at hand for a peer, so that the bars are in the unit.
func injected(ctx context.Context, p *place) ([]Result, error) {
	authority, err := p.Authority()
	if err != nil {
		return nil, err
	}
	pair, err := authority.Server("injector")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(p.Dir, "injector")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	for name, from := range map[string]string{"tls.crt": pair.CertFile, "tls.key": pair.KeyFile} {
		if err := os.Symlink(from, filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	var addresses [2]string
	for n := range addresses {
		port, err := bed.FreePort()
		if err != nil {
			return nil, err
		}
		addresses[n] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	program, err := p.Program("injector", bed.Tool("bin", "hyvve-injector"), []string{
		"--image=registry.example/hyvve-sidecar:1", "--vault-addr=https://vault.vault:8200", "--namespace=hyvve",
		"--cert-dir=" + dir, "--listen=" + addresses[0], "--status-listen=" + addresses[1],
	}, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: authority.TLS(), MaxIdleConnsPerHost: 64, DisableCompression: true}
	defer transport.CloseIdleConnections()
	reviewer := &reviewer{url: "https://" + addresses[0] + "/inject", transport: transport, body: []byte(realisticReview())}
	if err := reviewer.await(ctx); err != nil {
		return nil, fmt.Errorf("%w; the injector says:\n%s", err, program.Tail())
	}
	results, err := reviewer.measure(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w; the injector says:\n%s", err, program.Tail())
	}
	rss, err := memoryOf(fmt.Sprintf("/proc/%d", program.PID()), "VmRSS")
	if err != nil || rss == 0 {
		return nil, errors.Join(err, errors.New("the injector has ended"))
	}
	return append(results, Result{Name: "injector-rss", Unit: "MB", Ours: rss}.within(barReviewRSS)), nil
}

type reviewer struct {
	url       string
	transport *http.Transport
	body      []byte
}

// review asks once, and sees that the pod is injected.
func (r *reviewer) review(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(r.body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	answer, err := r.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if !bytes.Contains(text, []byte(`"allowed":true`)) || !bytes.Contains(text, []byte(`"patch":`)) {
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	return nil
}

func (r *reviewer) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, signalWait)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		err := r.review(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return err
		}
	}
}

func (r *reviewer) measure(ctx context.Context) ([]Result, error) {
	round := func() error {
		var clients errgroup.Group
		for range reviewClients {
			clients.Go(func() error {
				for range reviewsRound / reviewClients {
					if err := r.review(ctx); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return clients.Wait()
	}
	if err := round(); err != nil { // connections are made
		return nil, err
	}
	took, err := interleave(reviewRounds, round)
	if err != nil {
		return nil, err
	}
	p99, err := r.paced(ctx)
	if err != nil {
		return nil, err
	}
	return []Result{
		Result{Name: "injector-rate", Unit: "reviews/s", Ours: reviewsRound / took[0].Seconds()}.atLeast(barReviewRate),
		alone("injector-p99", p99).within(barReviewP99),
	}, nil
}

// paced asks at fixed times, whatever has been answered, and returns the time within which 99 of 100 were answered, counted from
// when each was to be asked.
func (r *reviewer) paced(ctx context.Context) (time.Duration, error) {
	const all = int(reviewsFor / time.Second * reviewsASecond)
	took := make([]time.Duration, all)
	var clients errgroup.Group
	next := make(chan int, all)
	begun := time.Now()
	at := func(n int) time.Time { return begun.Add(time.Duration(n) * time.Second / reviewsASecond) }
	for range reviewClients {
		clients.Go(func() error {
			for n := range next {
				if err := r.review(ctx); err != nil {
					return err
				}
				took[n] = time.Since(at(n))
			}
			return nil
		})
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := range all {
		timer.Reset(time.Until(at(n)))
		select {
		case <-timer.C:
			next <- n
		case <-ctx.Done():
			close(next)
			return 0, errors.Join(ctx.Err(), clients.Wait())
		}
	}
	close(next)
	if err := clients.Wait(); err != nil {
		return 0, err
	}
	slices.Sort(took)
	return took[all*99/100], nil
}

// realisticReview is one of a pod as a Deployment's ReplicaSet makes it, with what the API server has put in by then.
func realisticReview() string {
	environment := make([]string, 0, 24)
	for n := range 24 {
		environment = append(environment, fmt.Sprintf(`{"name":"SETTING_%d","value":"a value of some length, such as https://service-%d.shop.svc.cluster.local:8443/"}`, n, n))
	}
	probe := `{"httpGet":{"path":"/healthz","port":3000,"scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}`
	token := `{"name":"kube-api-access-x7k2p","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}`
	container := func(name, more string) string {
		return fmt.Sprintf(`{"name":%q,"image":"registry.example/shop/%s@sha256:8f1c0e1c5a7e3b8d9f6a4c2b1d0e9f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e",%s"resources":{"limits":{"cpu":"1","memory":"512Mi"},"requests":{"cpu":"100m","memory":"256Mi"}},"volumeMounts":[{"name":"cache","mountPath":"/var/cache"},%s],"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent","securityContext":{"capabilities":{"drop":["ALL"]},"runAsUser":1000,"runAsNonRoot":true,"readOnlyRootFilesystem":true,"allowPrivilegeEscalation":false}}`, name, name, more, token)
	}
	pod := `{"kind":"Pod","apiVersion":"v1","metadata":{"generateName":"api-7f9c5d8b6-","namespace":"shop","creationTimestamp":null,` +
		`"labels":{"app.kubernetes.io/name":"api","app.kubernetes.io/part-of":"shop","pod-template-hash":"7f9c5d8b6"},` +
		`"annotations":{"hyvve.app/inject":"true","hyvve.app/workload":"api","prometheus.io/scrape":"true","prometheus.io/port":"9102"},` +
		`"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"api-7f9c5d8b6","uid":"0b3fd2b6-7e8b-4a44-a3c5-1b1f3f9f6f10","controller":true,"blockOwnerDeletion":true}],` +
		`"managedFields":[{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","time":"2026-11-26T12:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:app.kubernetes.io/name":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"api\"}":{".":{},"f:env":{".":{},"k:{\"name\":\"SETTING_0\"}":{".":{},"f:name":{},"f:value":{}}},"f:image":{},"f:name":{}}}}}}]},` +
		`"spec":{"volumes":[{"name":"cache","emptyDir":{}},{"name":"kube-api-access-x7k2p","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},{"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}},{"downwardAPI":{"items":[{"path":"namespace","fieldRef":{"apiVersion":"v1","fieldPath":"metadata.namespace"}}]}}],"defaultMode":420}}],` +
		`"containers":[` + container("api", `"ports":[{"name":"http","containerPort":3000,"protocol":"TCP"}],"env":[`+strings.Join(environment, ",")+`],"livenessProbe":`+probe+`,"readinessProbe":`+probe+`,`) + `,` + container("exporter", `"args":["--listen=:9102"],`) + `],` +
		`"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"api","serviceAccount":"api","securityContext":{"runAsNonRoot":true,"fsGroup":1000,"seccompProfile":{"type":"RuntimeDefault"}},"schedulerName":"default-scheduler",` +
		`"affinity":{"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":100,"podAffinityTerm":{"labelSelector":{"matchLabels":{"app.kubernetes.io/name":"api"}},"topologyKey":"kubernetes.io/hostname"}}]}},` +
		`"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300},{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}],"priority":0,"enableServiceLinks":true,"preemptionPolicy":"PreemptLowerPriority"},"status":{}}`
	return `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"705ab4f5-6393-11e8-b7cc-42010a800002","kind":{"group":"","version":"v1","kind":"Pod"},"resource":{"group":"","version":"v1","resource":"pods"},"requestKind":{"group":"","version":"v1","kind":"Pod"},"requestResource":{"group":"","version":"v1","resource":"pods"},` +
		`"namespace":"shop","operation":"CREATE","userInfo":{"username":"system:serviceaccount:kube-system:replicaset-controller","uid":"6c7b0b9e-1f0f-4c6e-8b0a-6b7d9a0c1e2f","groups":["system:serviceaccounts","system:serviceaccounts:kube-system","system:authenticated"]},` +
		`"object":` + pod + `,"oldObject":null,"dryRun":false,"options":{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}}}`
}
