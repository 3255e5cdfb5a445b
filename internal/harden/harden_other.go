// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package harden

// Private does nothing here.
func Private() error { return nil }

// Process does nothing here.
func Process() error { return nil }
