// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
)

// Options say where a workload runs.
type Options struct {
	Instance string   // how it calls itself at servers
	Address  string   // host:port to serve on
	Bundle   string   // file that the sidecar renders; empty, for agents only: the environment
	PIDFile  string   // empty: none
	API      []string // agents only: URLs of the api's instances
}

// agentToken is presented by agents and verified by api.
const agentToken = "AGENT_SERVICE_TOKEN"

// metricsKey is presented by Prometheus and verified by agents.
const metricsKey = "METRICS_API_KEY"

// sessionLife is how long a JWT is valid. It must be shorter than the soak time.
const sessionLife = time.Second

type api struct{ process }

// API serves /call (bearer token), /login and /session (HS256 JWTs, kept in Redis), /row and /rewrite (encrypted rows).
func API(ctx context.Context, o Options) error {
	a := &api{process{bundlePath: o.Bundle, usesDB: true, pools: Pools{Instance: o.Instance}}}
	defer a.pools.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /call", a.call)
	mux.HandleFunc("GET /login", a.login)
	mux.HandleFunc("GET /session", a.session)
	mux.HandleFunc("GET /row", a.row)
	mux.HandleFunc("POST /rewrite", a.rewrite)
	return a.serve(ctx, o.Address, o.PIDFile, mux)
}

func bearer(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

// call is behind the platform's ServiceAuthGuard.
func (a *api) call(w http.ResponseWriter, r *http.Request) {
	if !a.takes(r, agentToken) {
		http.Error(w, "unknown service token", http.StatusUnauthorized)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func signature(secret, signed string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(signed))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// login signs a session with the secret that is presented, and notes it in Redis.
func (a *api) login(w http.ResponseWriter, r *http.Request) {
	claims, err := json.Marshal(map[string]any{"sub": "demo", "exp": float64(time.Now().Add(sessionLife).UnixNano()) / 1e9})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	token := signed + "." + signature(a.now.Load().Values[platform.BetterAuth], signed)
	if err := a.pools.Cache(func(c *goredis.Client) error {
		return c.Set(context.WithoutCancel(r.Context()), sessionKey(token), "demo", time.Minute).Err()
	}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = fmt.Fprint(w, token)
}

// sessionKey is a session's in Redis.
func sessionKey(token string) string { return fmt.Sprintf("session:%x", sha256.Sum256([]byte(token))) }

// session looks a JWT up in Redis, and checks it against all secrets that are accepted.
func (a *api) session(w http.ResponseWriter, r *http.Request) {
	token := bearer(r)
	at := strings.LastIndexByte(token, '.')
	if at < 0 {
		http.Error(w, "not a JWT", http.StatusUnauthorized)
		return
	}
	if err := a.pools.Cache(func(c *goredis.Client) error {
		return c.Get(context.WithoutCancel(r.Context()), sessionKey(token)).Err()
	}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for _, secret := range a.now.Load().accepted(platform.BetterAuth) {
		if hmac.Equal([]byte(signature(secret, token[:at])), []byte(token[at+1:])) {
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	http.Error(w, "signed with an unknown secret", http.StatusUnauthorized)
}

// layouts are those that a reader tries for a column: rows of older releases are fallen back to.
var layouts = map[string][]key.Layout{
	"ai_provider_configs":     {key.TagFirst},
	"mcp_server_configs":      {key.TagFirst, key.TagLast},
	"integration_connections": {key.TagFirst},
	"users":                   {key.TagLast},
}

var columnOf = map[string]string{
	"ai_provider_configs": "api_key_encrypted", "mcp_server_configs": "api_key_encrypted",
	"integration_connections": "encrypted_credentials", "users": "two_factor_secret",
}

var errUnreadable = errors.New("the row opens under no key that this instance holds")

// open decrypts with whatever is accepted; a key whose derivation is known is tried first.
func (a *api) open(table, text string) ([]byte, error) {
	e, err := envelope.Parse(text)
	if err != nil {
		return nil, err
	}
	h := a.now.Load()
	var rings []*envelope.Keyring
	for _, layout := range layouts[table] {
		env := platform.MasterKey
		if layout == key.TagLast {
			env = platform.BetterAuth
		}
		for _, value := range h.accepted(env) {
			r, err := a.ring(layout, value)
			if err != nil {
				return nil, err
			}
			if _, known := r.Known(e.Salt); known {
				rings = append([]*envelope.Keyring{r}, rings...)
			} else {
				rings = append(rings, r)
			}
		}
	}
	for _, r := range rings {
		if plaintext, err := r.Open(e); err == nil {
			return plaintext, nil
		}
	}
	return nil, errUnreadable
}

// row returns the plaintext of ?table=&id=. The demo's plaintexts are made up.
func (a *api) row(w http.ResponseWriter, r *http.Request) {
	table, id := r.FormValue("table"), r.FormValue("id")
	column, ok := columnOf[table]
	if !ok {
		http.Error(w, "unknown table", http.StatusNotFound)
		return
	}
	var text string
	err := a.pools.Database(func(db *pgxpool.Pool) error {
		return db.QueryRow(r.Context(), fmt.Sprintf("SELECT %s FROM %s WHERE id = $1", column, table), id).Scan(&text)
	})
	var plaintext []byte
	if err == nil {
		plaintext, err = a.open(table, text)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(plaintext)
}

// rewrite encrypts a row of ai_provider_configs again under the key that is presented, as the platform does when a user
// saves it.
func (a *api) rewrite(w http.ResponseWriter, r *http.Request) {
	err := a.pools.Database(func(db *pgxpool.Pool) error {
		return pgx.BeginFunc(r.Context(), db, func(tx pgx.Tx) error { return a.rewriteRow(r.Context(), tx, r.FormValue("id")) })
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *api) rewriteRow(ctx context.Context, tx pgx.Tx, id string) error {
	var text string
	if err := tx.QueryRow(ctx, "SELECT api_key_encrypted FROM ai_provider_configs WHERE id = $1 FOR UPDATE", id).Scan(&text); err != nil {
		return err
	}
	plaintext, err := a.open("ai_provider_configs", text)
	if err != nil {
		return err
	}
	sealed, err := a.seal(plaintext)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "UPDATE ai_provider_configs SET api_key_encrypted = $1, updated_at = now() WHERE id = $2", sealed, id)
	return err
}

// seal makes an envelope with a salt of its own, as the platform does.
func (a *api) seal(plaintext []byte) (string, error) {
	ring, err := a.ring(key.TagFirst, a.now.Load().Values[platform.MasterKey])
	if err != nil {
		return "", err
	}
	salt, err := envelope.NewSalt(rand.Reader)
	if err != nil {
		return "", err
	}
	derived, err := ring.Derive(salt)
	if err != nil {
		return "", err
	}
	e, err := envelope.Seal(key.TagFirst, derived, salt, plaintext, rand.Reader)
	return e.String(), err
}
