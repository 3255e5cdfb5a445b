// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

// Kinds are those of workloads that can be restarted, with their resources.
var Kinds = map[string]string{"deployment": "deployments", "statefulset": "statefulsets", "daemonset": "daemonsets"}

// restartedAt is what kubectl rollout restart sets. Whole seconds, as there, would lose the second of two restarts.
const restartedAt = "kubectl.kubernetes.io/restartedAt"

const (
	settledLook = 30 * time.Second // between looks at a rollout that has ended well
	maxAway     = 2 * time.Minute  // the API server may be away before that is held against a workload that was well
	maxNames    = 3                // pods that a reason names
)

// Rollout restarts a workload whose pods read Secrets, and reports how far the restart is. The pod template notes for which change
// of each Secret it was restarted, and pods inherit the note: a pending reload is recorded in the cluster, not in the sidecar.
type Rollout struct {
	Client    *Client
	Kind      string // of Kinds
	Namespace string
	Name      string
	Secrets   []*Secret // that its pods read

	mu       sync.Mutex
	settled  string // what it was when it had ended well
	at       time.Time
	old, all int // pods at the last look
}

var (
	_ reload.Reloader        = (*Rollout)(nil)
	_ reload.PendingReloader = (*Rollout)(nil)
	_ health.Checker         = (*Rollout)(nil)
)

// workload is what is read of a Deployment, a StatefulSet or a DaemonSet.
type workload struct {
	Metadata metadata `json:"metadata"`
	Spec     struct {
		Replicas *int `json:"replicas"`
		Paused   bool `json:"paused"`
		Selector struct {
			Labels      map[string]string `json:"matchLabels"`
			Expressions []expression      `json:"matchExpressions"`
		} `json:"selector"`
		Template struct {
			Metadata metadata `json:"metadata"`
		} `json:"template"`
		UpdateStrategy struct {
			Type          string `json:"type"`
			RollingUpdate struct {
				Partition int `json:"partition"`
			} `json:"rollingUpdate"`
		} `json:"updateStrategy"` // not of a Deployment
	} `json:"spec"`
	Status status `json:"status"`
}

type expression struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"`
	Values   []string `json:"values"`
}

// String is how it is called in words, logs and metrics.
func (r *Rollout) String() string { return r.Kind + "/" + r.Namespace + "/" + r.Name }

func (r *Rollout) what() string {
	return fmt.Sprintf("%s %q in namespace %q", r.Kind, r.Name, r.Namespace)
}

// CheckConfiguration refuses what cannot be.
func (r *Rollout) CheckConfiguration() error {
	var errs []error
	if _, ok := Kinds[r.Kind]; !ok {
		errs = append(errs, fmt.Errorf("kind = %q is none that can be restarted; use \"deployment\", \"statefulset\" or \"daemonset\"", r.Kind))
	}
	errs = append(errs, CheckName("name", r.Name), CheckNamespace("namespace", r.Namespace))
	if !slices.ContainsFunc(r.Secrets, func(s *Secret) bool { return s.Namespace == r.Namespace }) {
		errs = append(errs, fmt.Errorf("no render \"kubernetes_secret\" block writes into namespace %q, and pods read no Secrets of others; add one, or mend namespace", r.Namespace))
	}
	return errors.Join(errs...)
}

// wanted returns the annotations of a pod template that was restarted for the Secrets of now.
func (r *Rollout) wanted() map[string]string {
	all := map[string]string{}
	for _, s := range r.Secrets {
		if s.Namespace == r.Namespace && s.changed != "" {
			all[templateKey(s.Name)] = s.changed
		}
	}
	return all
}

// carries reports whether annotations say that all is of now.
func carries(have, wanted map[string]string) bool {
	for k, v := range wanted {
		if have[k] != v {
			return false
		}
	}
	return true
}

func (r *Rollout) request(method, verb string) request {
	resource := Kinds[r.Kind]
	return request{
		method: method, path: "/apis/apps/v1/namespaces/" + r.Namespace + "/" + resource + "/" + r.Name,
		what: r.what(), rule: rule{verb, "apps", resource, r.Name, r.Namespace},
	}
}

func (r *Rollout) get(ctx context.Context) (w workload, err error) {
	return w, r.Client.do(ctx, r.request(http.MethodGet, "get"), &w)
}

// ReloadPending implements reload.PendingReloader.
func (r *Rollout) ReloadPending(ctx context.Context) (bool, error) {
	w, err := r.get(ctx)
	return err == nil && !carries(w.Spec.Template.Metadata.Annotations, r.wanted()), err
}

// Reload begins the restart, unless that was done for what the Secrets hold now. Check reports how it proceeds.
func (r *Rollout) Reload(ctx context.Context) error {
	w, err := r.get(ctx)
	if err != nil {
		return err
	}
	wanted := r.wanted()
	if carries(w.Spec.Template.Metadata.Annotations, wanted) {
		return nil
	}
	if err := r.restartable(w); err != nil {
		return err
	}
	wanted[restartedAt] = time.Now().UTC().Format(time.RFC3339Nano)
	patch := r.request(http.MethodPatch, "patch")
	patch.query, patch.contentType = url.Values{"fieldManager": {Manager}}, "application/strategic-merge-patch+json"
	patch.body = map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": wanted}}}}
	r.mu.Lock()
	r.settled = ""
	r.mu.Unlock()
	return r.Client.do(ctx, patch, nil)
}

// restartable refuses what would not restart pods, or not all of them.
func (r *Rollout) restartable(w workload) error {
	strategy := w.Spec.UpdateStrategy
	switch {
	case w.Spec.Paused:
		return fmt.Errorf("%s is paused, so that no pod would be restarted; resume it: kubectl -n %s rollout resume %s/%s", r.what(), r.Namespace, r.Kind, r.Name)
	case strategy.Type == "OnDelete":
		return fmt.Errorf("%s has the update strategy OnDelete, so that pods are restarted only when somebody deletes them; set RollingUpdate", r.what())
	case strategy.RollingUpdate.Partition > 0:
		return fmt.Errorf("%s has a partition of %d in its update strategy, so that pods below it would not be restarted; set it to 0", r.what(), strategy.RollingUpdate.Partition)
	}
	return nil
}

// Check implements health.Checker: well is a rollout that has ended, with no pod left that has read an older Secret, those
// that are being ended among them.
func (r *Rollout) Check(ctx context.Context, _ string) error {
	wanted := r.wanted()
	name := strings.Join(sortedPairs(wanted), ",")
	r.mu.Lock()
	settled := r.settled == name
	since := time.Since(r.at)
	r.mu.Unlock()
	if settled && since < settledLook {
		return nil
	}
	err := r.look(ctx, wanted)
	switch {
	case settled && since < maxAway && Away(err):
		return nil // it is not known to be otherwise
	case err == nil:
		r.mu.Lock()
		r.settled, r.at = name, time.Now()
		r.mu.Unlock()
	case !Away(err):
		r.mu.Lock()
		r.settled = ""
		r.mu.Unlock()
	}
	return err
}

// look is Check, asked of the cluster.
func (r *Rollout) look(ctx context.Context, wanted map[string]string) error {
	w, err := r.get(ctx)
	if err != nil {
		return err
	}
	if !carries(w.Spec.Template.Metadata.Annotations, wanted) {
		return fmt.Errorf("%s: its pod template does not say that it was restarted for the Secrets of now; it was changed meanwhile, and is restarted", r.what())
	}
	ended := w.ended(r.Kind)
	if health.Proven(ended) {
		return wrap(r.what(), ended)
	}
	old, err := r.oldPods(ctx, w, wanted)
	if err != nil {
		return err
	}
	var waits []string
	if ended != nil {
		waits = append(waits, ended.Error())
	}
	if len(old) > 0 {
		names := old
		if len(names) > maxNames {
			names = append(slices.Clone(names[:maxNames]), fmt.Sprintf("and %d more", len(old)-maxNames))
		}
		waits = append(waits, fmt.Sprintf("%d pods hold what the Secret held before: %s", len(old), strings.Join(names, ", ")))
	}
	if len(waits) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %s", r.what(), strings.Join(waits, "; "))
}

// oldPods returns the names of pods that have not been made since the Secrets are as they are. One that has ended reads nothing.
func (r *Rollout) oldPods(ctx context.Context, w workload, wanted map[string]string) (names []string, err error) {
	var list struct {
		Items []struct {
			Metadata metadata `json:"metadata"`
			Status   struct {
				Phase string `json:"phase"`
			} `json:"status"`
		} `json:"items"`
	}
	if err := r.Client.do(ctx, request{
		method: http.MethodGet, path: "/api/v1/namespaces/" + r.Namespace + "/pods", query: url.Values{"labelSelector": {w.selector()}},
		what: "pods of " + r.what(), rule: rule{"list", "", "pods", "", r.Namespace},
	}, &list); err != nil {
		return nil, err
	}
	all := 0
	for _, p := range list.Items {
		if p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
			continue
		}
		all++
		if carries(p.Metadata.Annotations, wanted) {
			continue
		}
		name := p.Metadata.Name
		if p.Metadata.Deletion != "" {
			name += " (being ended)"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	r.mu.Lock()
	r.all, r.old = all, len(names)
	r.mu.Unlock()
	return names, nil
}

// Pods returns how many there were at the last look, and how many of them hold what a Secret held before.
func (r *Rollout) Pods() (all, old int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all, r.old
}

// selector is that of the workload as requests take it.
func (w workload) selector() string {
	parts := sortedPairs(w.Spec.Selector.Labels)
	for _, e := range w.Spec.Selector.Expressions {
		switch e.Operator {
		case "In", "NotIn":
			parts = append(parts, fmt.Sprintf("%s %s (%s)", e.Key, strings.ToLower(e.Operator), strings.Join(e.Values, ",")))
		case "Exists":
			parts = append(parts, e.Key)
		case "DoesNotExist":
			parts = append(parts, "!"+e.Key)
		}
	}
	return strings.Join(parts, ",")
}

func sortedPairs(m map[string]string) []string {
	all := make([]string, 0, len(m))
	for k, v := range m {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return all
}

// status is what controllers say of a Deployment, a StatefulSet or a DaemonSet.
type status struct {
	Observed   int64 `json:"observedGeneration"`
	Replicas   int   `json:"replicas"`
	Updated    int   `json:"updatedReplicas"`
	Available  int   `json:"availableReplicas"`
	Conditions []struct {
		Type    string `json:"type"`
		Status  string `json:"status"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
	} `json:"conditions"`

	CurrentRevision string `json:"currentRevision"` // of a StatefulSet
	UpdateRevision  string `json:"updateRevision"`

	Desired         int `json:"desiredNumberScheduled"` // of a DaemonSet
	DesiredUpdated  int `json:"updatedNumberScheduled"`
	NumberAvailable int `json:"numberAvailable"`
}

// ended tells what a rollout waits for; nil if for nothing (as kubectl's rollout status does).
func (w workload) ended(kind string) error {
	s := w.Status
	if s.Observed < w.Metadata.Generation {
		return errors.New("the rollout has not been noticed yet; does the controller manager of the cluster run?")
	}
	wanted := 1
	if w.Spec.Replicas != nil {
		wanted = *w.Spec.Replicas
	}
	switch kind {
	case "daemonset":
		return counted(s.Desired, s.DesiredUpdated, s.DesiredUpdated, s.NumberAvailable)
	case "statefulset":
		if err := counted(wanted, s.Updated, s.Replicas, s.Available); err != nil {
			return err
		}
		if s.UpdateRevision != s.CurrentRevision && wanted > 0 {
			return errors.New("the last pod of the old revision has just been replaced")
		}
		return nil
	}
	for _, c := range s.Conditions {
		if c.Type == "Progressing" && c.Reason == "ProgressDeadlineExceeded" {
			return health.Proof(fmt.Errorf("the rollout makes no progress (ProgressDeadlineExceeded): %s", c.Message))
		}
		if c.Type == "ReplicaFailure" && c.Status == "True" {
			return fmt.Errorf("pods cannot be made (%s): %s", c.Reason, c.Message)
		}
	}
	return counted(wanted, s.Updated, s.Replicas, s.Available)
}

// counted compares how many pods are wanted, are new, are there at all, and are available.
func counted(wanted, updated, all, available int) error {
	switch {
	case updated < wanted:
		return fmt.Errorf("%d of %d pods are new", updated, wanted)
	case all > updated:
		return fmt.Errorf("%d old pods are yet to go", all-updated)
	case available < updated:
		return fmt.Errorf("%d of %d new pods are available", available, updated)
	}
	return nil
}

// wrap names what an error is of.
func wrap(what string, err error) error { return fmt.Errorf("%s: %w", what, err) }
