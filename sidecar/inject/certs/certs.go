// SPDX-License-Identifier: Apache-2.0

// Package certs makes, keeps and rotates the serving certificate of the webhook, where nobody else does.
package certs

import (
	_ "k8s.io/client-go/kubernetes" // until there is more
)
