// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package proc

// Private does nothing here.
func Private() error { return nil }

// Harden does nothing here.
func Harden() error { return nil }
