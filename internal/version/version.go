// SPDX-License-Identifier: Apache-2.0

// Package version is what the binaries say of themselves.
package version

// Version is a semantic version with a leading v, as Vault wants a running version; the build sets it.
var Version = "v0.1.0-dev"
