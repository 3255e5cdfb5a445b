// SPDX-License-Identifier: Apache-2.0

// Package platform holds the facts on HYVVE that the preset and the by-hand re-encryption share: its keys, who does
// what with them, and the columns they protect. docs/platform.md describes them.
package platform

import (
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Environment names of the keys that protect rows.
const (
	MasterKey  = "ENCRYPTION_MASTER_KEY"
	BetterAuth = "BETTER_AUTH_SECRET"
)

// Key is one of the platform's keys as the preset defines it.
type Key struct {
	Name     string
	Env      string
	Kind     string
	Options  map[string]string
	Protects []key.Column
	Period   time.Duration // recommended; 0: rotated when asked
	Server   string        // what the preset calls the server whose connection Options name; empty: it needs none
}

// Servers names the connections at whose servers the platform's URLs are valid; empty where there is none.
type Servers struct{ Database, Redis string }

// Names of the keys that need a connection.
const (
	databaseURL = "database-url"
	redisURL    = "redis-url"
)

// Keys returns the platform's keys: its tokens, and the URLs of the servers that there are connections to.
func Keys(s Servers) []Key {
	keys := tokens()
	if s.Database != "" {
		keys = append(keys, Key{Name: databaseURL, Env: "DATABASE_URL", Kind: "postgres", Server: "database", Options: map[string]string{"connection": s.Database}})
	}
	if s.Redis != "" {
		keys = append(keys, Key{Name: redisURL, Env: "REDIS_URL", Kind: "redis", Server: "redis", Options: map[string]string{"connection": s.Redis}})
	}
	return keys
}

func tokens() []Key {
	const day = 24 * time.Hour
	return []Key{
		{Name: "agent-service-token", Env: "AGENT_SERVICE_TOKEN", Kind: "token", Options: map[string]string{"format": "hex", "length": "32"}},
		{Name: "agno-api-key", Env: "AGNO_API_KEY", Kind: "token", Options: map[string]string{"format": "base64", "length": "32"}},
		{
			Name: "better-auth-secret", Env: BetterAuth, Kind: "token", Protects: Columns(BetterAuth),
			Options: map[string]string{"format": "base64", "length": "48", "rule": "better-auth-secret"},
		},
		{
			Name: "encryption-master-key", Env: MasterKey, Kind: "token", Protects: Columns(MasterKey),
			Options: map[string]string{"format": "base64", "length": "32", "rule": "encryption-master-key"},
		},
		{Name: "jwt-secret", Env: "JWT_SECRET", Kind: "token", Options: map[string]string{"format": "base64url", "length": "48"}},
		{Name: "metrics-api-key", Env: "METRICS_API_KEY", Kind: "token", Options: map[string]string{"format": "base64", "length": "32"}, Period: 90 * day},
	}
}

// Columns returns the columns of envelopes that a key of that environment name protects, in the order in which the
// platform's own runbook goes through them, followed by those that it misses. Their schema is that of the database URL.
func Columns(env string) []key.Column {
	switch env {
	case MasterKey:
		return []key.Column{
			{Table: "ai_provider_configs", Column: "api_key_encrypted", Layout: key.TagFirst},
			{Table: "mcp_server_configs", Column: "api_key_encrypted", Layout: key.TagFirst},
			{Table: "integration_connections", Column: "encrypted_credentials", Layout: key.TagFirst},
		}
	case BetterAuth:
		return []key.Column{
			{Table: "users", Column: "two_factor_secret", Layout: key.TagLast},
			// Rows of older releases, which readers still fall back to.
			{Table: "mcp_server_configs", Column: "api_key_encrypted", Layout: key.TagLast},
		}
	}
	return nil
}

// Workloads returns the workloads that load the keys, each after those that its After names.
func Workloads(s Servers) []workload.Workload {
	all := workloads()
	for n, w := range all {
		all[n].RequireProof = workload.ProofHealth
		if w.Name == "prometheus" {
			continue
		}
		if s.Database != "" {
			w.Keys[databaseURL] = workload.Role{Presents: true}
		}
		if s.Redis != "" {
			w.Keys[redisURL] = workload.Role{Presents: true}
		}
	}
	return all
}

func workloads() []workload.Workload {
	presents, verifies := workload.Role{Presents: true}, workload.Role{Verifies: true}
	both := workload.Role{Presents: true, Verifies: true}
	return []workload.Workload{
		{
			Name: "api", MinInstances: 1, MaxUnavailable: "25%", Reencrypts: true,
			Keys: map[string]workload.Role{
				"agent-service-token": verifies, "better-auth-secret": both, "encryption-master-key": both, "jwt-secret": both,
			},
		},
		{
			Name: "web", MinInstances: 1, MaxUnavailable: "25%", After: []string{"api"},
			Keys: map[string]workload.Role{
				"agno-api-key": presents, "better-auth-secret": both, "encryption-master-key": both,
			},
		},
		{
			Name: "agents", MinInstances: 1, MaxUnavailable: "25%", After: []string{"api"},
			Keys: map[string]workload.Role{
				"agent-service-token": presents, "agno-api-key": both, "better-auth-secret": verifies,
				"encryption-master-key": both, "metrics-api-key": verifies,
			},
		},
		{
			Name: "prometheus", MinInstances: 1, MaxUnavailable: "1", After: []string{"agents"},
			Keys: map[string]workload.Role{"metrics-api-key": presents},
		},
	}
}
