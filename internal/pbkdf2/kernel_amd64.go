// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package pbkdf2

import "golang.org/x/sys/cpu"

//go:noescape
func iterate1(lanes *lane, iterations uint64)

//go:noescape
func iterate2(lanes *lane, iterations uint64)

//go:noescape
func iterate4(lanes *lane, iterations uint64)

// hasSHA reports whether the processor has the SHA instructions; golang.org/x/sys/cpu does not.
func hasSHA() bool

// accelerated lists what this processor can do.
func accelerated() []implementation {
	if !cpu.X86.HasAVX || !hasSHA() { // AVX implies SSSE3 and SSE4.1
		return nil
	}
	return []implementation{kernels("SHA-NI", kernel{1, iterate1}, kernel{2, iterate2}, kernel{4, iterate4})}
}
