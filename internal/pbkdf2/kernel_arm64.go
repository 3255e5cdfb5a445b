// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package pbkdf2

import "golang.org/x/sys/cpu"

//go:noescape
func iterate1(lanes *lane, iterations uint64)

//go:noescape
func iterate2(lanes *lane, iterations uint64)

// accelerated lists what this processor can do.
func accelerated() []implementation {
	if !cpu.ARM64.HasSHA2 {
		return nil
	}
	return []implementation{kernels("ARMv8 SHA-256", kernel{1, iterate1}, kernel{2, iterate2})}
}
