// SPDX-License-Identifier: Apache-2.0

//go:build (!amd64 && !arm64) || purego

package pbkdf2

// accelerated lists nothing: there is no assembly for this machine.
func accelerated() []implementation { return nil }
