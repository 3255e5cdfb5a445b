// SPDX-License-Identifier: Apache-2.0

// Package pods holds the scenarios in real pods, on a cluster of one node that all of them share. "make test-k8s" runs them.
package pods

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// Variables of the environment.
const (
	switchedOn = "HYVVE_PODS"       // set by scripts/test-k8s
	holding    = "HYVVE_PODS_HOLDS" // set by a test: hold a node
)

func TestMain(m *testing.M) {
	if os.Getenv(holding) != "" {
		if err := hold(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(switchedOn) != "" {
		if err := bed.CanRunNode(); err != nil {
			fmt.Fprintf(os.Stdout, "test-k8s: SKIPPED, nothing was tested in pods: %v\n", err)
			return
		}
	}
	bed.Main(m)
}

// node returns the cluster, and a namespace of the test's own.
func node(t *testing.T) (*bed.Node, string) {
	t.Helper()
	needsNode(t)
	return bed.SharedNode(t)
}

func needsNode(t *testing.T) {
	t.Helper()
	if os.Getenv(switchedOn) == "" {
		kit.Skip(t, `runs in pods: "make test-k8s"`)
	}
}

const busyboxImage = "registry.local/busybox:1"

func buildBusybox(ctx context.Context, n *bed.Node) error {
	return n.BuildImage(ctx, busyboxImage, bed.Tool("tools", "kubernetes-root", "bin", "busybox"))
}
