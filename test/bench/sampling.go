// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/postgres"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/redis"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const (
	// sampledFor is how long each form of sampling is measured, at least.
	sampledFor = 10 * time.Second
	// bystanders are the sessions of others at each server.
	bystanders = 20
	// Bars, in % of a core of the server: while a rotation soaks, and in the dense samples at its end.
	barSparse = 1
	barDense  = 3
)

// sampledServer is a server whose sessions a kind samples.
type sampledServer struct {
	name   string
	kind   kind.Server
	change kind.Change
	cpu    func() (seconds float64, err error) // that the server has spent on what the kind asks
}

// sampling measures what samples for use of an old version cost PostgreSQL and Redis.
func sampling(ctx context.Context, p *place) ([]Result, error) {
	pg, closePostgres, err := sampledPostgres(ctx, p)
	if err != nil {
		return nil, err
	}
	defer closePostgres()
	rd, closeRedis, err := sampledRedis(ctx, p)
	if err != nil {
		return nil, err
	}
	defer closeRedis()
	var results []Result
	for _, s := range []sampledServer{pg, rd} {
		sparse, err := s.share(ctx, func() error {
			_, _, err := s.kind.InUse(ctx, s.change)
			return errors.Join(err, pause(ctx, time.Second))
		})
		if err != nil {
			return nil, err
		}
		dense, err := s.share(ctx, func() error {
			sampler, _ := s.kind.(kind.Sampler)
			_, _, err := sampler.Sample(ctx, s.change, time.Second)
			return err
		})
		if err != nil {
			return nil, err
		}
		results = append(results,
			Result{Name: s.name + "-sampling-soak", Unit: "% of a core", Ours: sparse}.within(barSparse),
			Result{Name: s.name + "-sampling-dense", Unit: "% of a core", Ours: dense}.within(barDense))
	}
	return results, nil
}

// share does something again and again, and returns what that costs the server, in % of a core.
func (s sampledServer) share(ctx context.Context, do func() error) (float64, error) {
	if err := do(); err != nil { // sessions are open from here on
		return 0, err
	}
	before, err := s.cpu()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	for time.Since(begun) < sampledFor && ctx.Err() == nil {
		if err := do(); err != nil {
			return 0, err
		}
	}
	took := time.Since(begun)
	after, err := s.cpu()
	return 100 * (after - before) / took.Seconds(), err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func sampledPostgres(ctx context.Context, p *place) (s sampledServer, end func(), err error) {
	k := postgres.New(rand.Reader)
	var conns []*pgx.Conn
	end = func() {
		for _, conn := range conns {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
		_ = k.Close()
	}
	admin := p.postgres.AdminURL("postgres")
	for range bystanders {
		conn, err := pgx.Connect(ctx, admin)
		if err != nil {
			return s, end, err
		}
		conns = append(conns, conn)
	}
	u, err := dsn.Parse(admin, "postgresql")
	if err != nil {
		return s, end, err
	}
	s = sampledServer{name: "postgres", kind: k, cpu: func() (spent float64, err error) {
		rows, err := conns[0].Query(ctx, "SELECT pid FROM pg_stat_activity WHERE application_name = 'hyvve-engine'")
		if err != nil {
			return 0, err
		}
		pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
		for _, pid := range pids {
			one, err := processorTime(pid)
			if err != nil {
				return 0, err
			}
			spent += one
		}
		return spent, err
	}}
	s.change, err = betweenTwo(k, "url", admin, u)
	return s, end, err
}

func sampledRedis(ctx context.Context, p *place) (s sampledServer, end func(), err error) {
	k := redis.New()
	end = func() { _ = k.Close() }
	r, err := p.Redis(ctx)
	if err != nil {
		return s, end, err
	}
	u, err := dsn.Parse(r.AdminURL(), "redis")
	if err != nil {
		return s, end, err
	}
	s = sampledServer{name: "redis", kind: k, cpu: func() (float64, error) {
		info, err := r.Do(ctx, "INFO", "cpu")
		if err != nil {
			return 0, err
		}
		sum := 0.0
		for line := range strings.Lines(info) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			if seconds, err := strconv.ParseFloat(value, 64); err == nil && (name == "used_cpu_user" || name == "used_cpu_sys") {
				sum += seconds
			}
		}
		return sum, nil
	}}
	s.change, err = betweenTwo(k, "url", r.AdminURL(), u)
	return s, end, err
}

// betweenTwo is a change from one login that nobody uses to another.
func betweenTwo(k kind.Connector, field, admin string, u dsn.URL) (kind.Change, error) {
	c, err := k.NormalizeConnection(kind.Connection{Name: "bench", Revision: 1, Options: kind.Options{field: admin}})
	if err != nil {
		return kind.Change{}, err
	}
	version := func(number int) key.Version {
		return key.Version{Number: number, Value: u.With(fmt.Sprintf("nobody_%d", number), key.NewValue("nobody")).Text()}
	}
	generic, _ := k.(kind.Kind)
	options, err := generic.Normalize(kind.Options{kind.OptionConnection: "bench"})
	return kind.Change{Key: key.Key{Name: "bench", Env: "BENCH", Mount: "bench2", Options: options}, From: version(1), To: version(2), Connection: c}, err
}

const (
	podRounds   = 7
	podLook     = time.Second // of the kubelet at containers
	barPodDelay = 1500        // ms
	podSidecar  = "registry.local/hyvve-sidecar:bench"
	podApp      = "registry.local/busybox:bench"
)

// podsStart measures how much later a pod's container starts with a sidecar that has to bring its keys first: from when the pod
// is made until Kubernetes says that all its containers run, in pods that are the same otherwise.
func podsStart(ctx context.Context, p *place) ([]Result, error) {
	if err := bed.CanRunNode(); err != nil {
		_, _ = fmt.Fprintf(p.log, "  pod-start-delay is not measured: %v\n", err)
		return nil, nil
	}
	node, err := p.Node(ctx)
	if err != nil {
		return nil, err
	}
	for image, program := range map[string]string{podSidecar: bed.Tool("bin", "hyvve-sidecar"), podApp: bed.Tool("tools", "kubernetes-root", "bin", "busybox")} {
		if err := node.BuildImage(ctx, image, program); err != nil {
			return nil, err
		}
	}
	options, err := p.podsLogIn(ctx, node)
	if err != nil {
		return nil, err
	}
	names, sides := []string{"pod-start-delay", "pod-start-delay-hook"}, []string{"", "startup-probe", "post-start"}
	taken := make([][]time.Duration, len(sides))
	for round := -1; round < podRounds; round++ {
		for n, gate := range sides {
			// Pods come at any moment between two looks of the kubelet; to make each one when the one before was seen would be the worst, always.
			time.Sleep(time.Duration(max(round, 0)) * podLook / podRounds)
			took, err := startPod(ctx, node, fmt.Sprintf("pod-%d-%d", round+1, n), gate, options)
			if err != nil {
				return nil, err
			}
			if round >= 0 { // the first ones find no image unpacked
				taken[n] = append(taken[n], took)
			}
		}
	}
	var all []Result
	for n, name := range names {
		r := alone(name, median(taken[n+1])-median(taken[0]))
		all = append(all, r.within(barPodDelay))
	}
	_, _ = fmt.Fprintf(p.log, "  a pod starts in %.0f ms with the sidecar, in %.0f ms with its hook, in %.0f ms without\n", ms(median(taken[1])), ms(median(taken[2])), ms(median(taken[0])))
	return all, nil
}

// podsLogIn lets pods of the namespace default log in to Vault, and returns what they are injected by.
func (p *place) podsLogIn(ctx context.Context, n *bed.Node) (inject.Options, error) {
	o := inject.Options{Image: podSidecar, ImagePullPolicy: "Never"}
	var err error
	if o.VaultAddress, err = n.ExposeAddress(p.vault.Addr); err != nil {
		return o, err
	}
	if err := p.vault.KubernetesAuth(ctx, n.Kubernetes, "kubernetes"); err != nil {
		return o, err
	}
	if err := p.vault.Client.Sys().PutPolicyWithContext(ctx, benchLoad, fmt.Sprintf("path \"%s/*\" { capabilities = [\"read\", \"update\"] }\n", bed.Mount)); err != nil {
		return o, err
	}
	_, err = p.vault.Client.Logical().WriteWithContext(ctx, "auth/kubernetes/role/"+benchLoad, map[string]any{
		"bound_service_account_names": "default", "bound_service_account_namespaces": "default", "audience": bed.VaultAudience, "token_policies": benchLoad,
	})
	return o, err
}

// startPod makes a pod that is held back by a gate, or has no sidecar, and returns how long it took until it ran. It is removed then.
func startPod(ctx context.Context, n *bed.Node, name, gate string, o inject.Options) (time.Duration, error) {
	annotations := map[string]string{}
	if gate != "" {
		annotations = map[string]string{"hyvve.app/inject": "true", "hyvve.app/workload": benchLoad, "hyvve.app/start-gate": gate}
	}
	raw, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name, "annotations": annotations},
		"spec": map[string]any{
			"terminationGracePeriodSeconds": 0,
			"containers": []any{map[string]any{
				"name": "app", "image": podApp, "imagePullPolicy": "Never", "command": []string{"/busybox", "sleep", "3600"}, "securityContext": map[string]any{"runAsUser": 1000},
			}},
		},
	})
	if err == nil && gate != "" {
		raw, err = patchedPod(o, raw)
	}
	if err != nil {
		return 0, err
	}
	const pods = "/api/v1/namespaces/default/pods"
	begun := time.Now()
	if err := n.Do(ctx, http.MethodPost, pods, raw, nil); err != nil {
		return 0, err
	}
	if err := awaitRunning(ctx, n, pods+"/"+name); err != nil {
		return 0, err
	}
	took := time.Since(begun)
	return took, n.Do(ctx, http.MethodDelete, pods+"/"+name+"?gracePeriodSeconds=0", nil, nil)
}

func patchedPod(o inject.Options, raw []byte) ([]byte, error) {
	operations, err := o.Patch(raw, "default")
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(operations)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		return nil, err
	}
	return patch.Apply(raw)
}

func awaitRunning(ctx context.Context, n *bed.Node, path string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		var pod struct {
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
		if err := n.Do(ctx, http.MethodGet, path, nil, &pod); err != nil {
			return err
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == "Ready" && c.Status == "True" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not run: %w", path, ctx.Err())
		case <-ticker.C:
		}
	}
}
