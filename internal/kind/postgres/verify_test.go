// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"maps"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// What an operator wrote as verify_query runs as the owner. It is one query, changes nothing, and brings back no more than a
// SQLSTATE, at the server and behind a pooler.
func TestVerifyQuery(t *testing.T) {
	for _, mode := range []string{"", "session", "transaction"} {
		t.Run("pool mode "+mode, func(t *testing.T) {
			w := newWorld(t, "", nil)
			c := w.next(w.first)
			if mode != "" {
				_, c = w.withBouncer(t, bed.PgBouncerOptions{Mode: mode})
			}
			w.exec(
				"CREATE TABLE public.cards (card text)", "INSERT INTO public.cards VALUES ('canary-4111')", "GRANT ALL ON public.cards TO "+quote(w.app),
				"CREATE PROCEDURE public.commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; INSERT INTO public.cards VALUES (''x''); END'",
				"CREATE FUNCTION public.writes() RETURNS int LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.cards VALUES (''x''); RETURN 1; END'",
				"CREATE FUNCTION public.says() RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''%'', (SELECT card FROM public.cards); END'",
			)
			w.ok(w.kind.Stage(t.Context(), c))
			verify := func(query string) error {
				c.Key.Options = maps.Clone(c.Key.Options)
				c.Key.Options[optionQuery] = query
				return w.kind.Verify(t.Context(), c)
			}
			for query, want := range map[string]string{
				"SELEC 1":              "42601",
				"SELECT 1/0":           "22012",
				"SELECT * FROM things": "42P01",
				"SELECT (SELECT string_agg(card, ',') FROM public.cards)::int": "22P02",
				"SELECT public.says()":   "P0001",
				"SELECT public.writes()": "25006",
				"SELECT set_config('transaction_read_only', 'off', true), public.writes()": "25001",
				"SELECT 1; COMMIT; INSERT INTO public.cards VALUES ('x')":                  "42601",
				"SELECT 1; SELECT 2":                    "42601",
				"COMMIT":                                "42601",
				"PREPARE TRANSACTION 'x'":               "42601",
				"CALL public.commits()":                 "42601",
				"INSERT INTO public.cards VALUES ('x')": "42601",
				"WITH x AS (INSERT INTO public.cards VALUES ('x') RETURNING 1) SELECT 1": "0A000",
			} {
				err := verify(query)
				if err == nil || !strings.Contains(err.Error(), "SQLSTATE "+want) || !strings.Contains(err.Error(), "verify_query") || strings.Contains(err.Error(), "canary") {
					t.Errorf("%s: %v, want verify_query and %s", query, err, want)
				}
			}
			for _, query := range []string{"SELECT 1", "TABLE public.cards", "SELECT count(*) FROM public.things -- all of them", "WITH x AS (SELECT 1) SELECT * FROM x"} {
				if err := verify(query); err != nil {
					t.Errorf("%s: %v", query, err)
				}
			}
			var cards int
			w.ok(w.dial(w.admin).QueryRow(t.Context(), "SELECT count(*) FROM public.cards").Scan(&cards))
			if cards != 1 {
				t.Errorf("%d rows, want 1: a verify_query has written", cards)
			}
			w.ok(w.kind.Unstage(t.Context(), c))
		})
	}
}
