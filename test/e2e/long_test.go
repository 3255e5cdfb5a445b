// SPDX-License-Identifier: Apache-2.0

package e2e

import "os"

// long reports whether the scenarios that kill again and again are wanted in full length: "make test-ha" says so.
func long() bool { return os.Getenv("HYVVE_LONG") != "" }
