// SPDX-License-Identifier: Apache-2.0

package bed

import "github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"

// alive reports whether a process runs. One that has ended and was not waited for does not: it holds nothing.
func alive(pid int) bool {
	p, err := proc.Read(pid)
	return err == nil && !p.Ended()
}

// stopped reports whether a process is stopped by a signal, or gone.
func stopped(pid int) bool {
	p, err := proc.Read(pid)
	return err != nil || p.State == 'T' || p.Ended()
}
