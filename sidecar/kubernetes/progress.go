// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"errors"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
)

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
