// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// sayInClear warns, once a configuration, of what crosses a network in the clear, and leaves it in the status.
func (a *Agent) sayInClear() {
	for _, text := range a.config.Warnings {
		a.log.Warn("a secret crosses the network without verified TLS", "where", text)
	}
	a.board.Warn(a.config.Warnings)
}

// databaseInClear warns of the database whose rows are re-encrypted, whose URL may be a key. It returns what was said, and says
// nothing again that it has said before. The configuration's own warnings stay.
func databaseInClear(url, said string, own []string, board *status.Board, log *slog.Logger) string {
	why := dsn.InClear(url)
	if why == "" {
		board.Warn(own)
		return said
	}
	why = "reencrypt: " + why
	if why != said {
		log.Warn("a secret crosses the network without verified TLS", "where", why)
	}
	board.Warn(append(slices.Clone(own), why))
	return why
}
