// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// LeavingText says of an instance whose sidecar has stopped beside its process until when it counts, and what to do.
func LeavingText(i workload.Instance) string {
	return fmt.Sprintf("its sidecar stopped at %s beside a process that may still run, so it counts until %s; start the sidecar again, or if the process has ended: vault delete hyvve/workloads/%s/instances/%s",
		Stamp(i.Leaving.At), Stamp(i.Leaving.Until), i.Workload, i.ID)
}

// LapsedText says the same of one whose lease has ended. out says which retired versions it runs with, if its process still runs.
func LapsedText(i workload.Instance, out string) string {
	return fmt.Sprintf("its sidecar stopped at %s beside a process that may still run, and its lease ended at %s, so that rotations did not wait for it; if it runs, it %s; start the sidecar again, or if the process has ended: vault delete hyvve/workloads/%s/instances/%s",
		Stamp(i.Leaving.At), Stamp(i.Leaving.Until), out, i.Workload, i.ID)
}
