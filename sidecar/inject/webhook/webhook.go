// SPDX-License-Identifier: Apache-2.0

// Package webhook answers the API server's admission reviews of pods.
package webhook

import (
	"context"
	"net/http"

	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject"
)

// Handler answers reviews of pods with the patch that injects the sidecar.
type Handler struct{ Options inject.Options }

// Handle implements admission.Handler.
func (h Handler) Handle(_ context.Context, _ admission.Request) admission.Response {
	return admission.Errored(http.StatusNotImplemented, inject.ErrNotWanted)
}
