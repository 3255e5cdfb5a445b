// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Traps are what somebody plants in a schema so that a session of ours runs it: functions, operators, types and relations
// with the names of the catalogue's. One that is used says so in the server's log, whatever becomes of its transaction.
type Traps struct {
	server *Postgres
	schema string
}

// plantTraps makes traps of all that pg_catalog has, in the schema named in hyvve.traps. What cannot be copied is left out.
// The message has a parameter, so that statements in the log do not look like a trap that is sprung.
const plantTraps = `DO $plant$ DECLARE
	at text := quote_ident(current_setting('hyvve.traps'));
	body text := format('AS $f$ BEGIN PERFORM %s.sprung(); RETURN NULL; END $f$', at);
	r record;
BEGIN
	EXECUTE 'CREATE SCHEMA IF NOT EXISTS ' || at;
	EXECUTE 'GRANT USAGE ON SCHEMA ' || at || ' TO PUBLIC';
	EXECUTE format('CREATE FUNCTION %s.sprung() RETURNS bool LANGUAGE plpgsql SET search_path = pg_catalog AS $f$ BEGIN
		RAISE LOG ''trap %% is sprung by %% in: %%'', %L, session_user, current_query(); RETURN true; END $f$', at, current_setting('hyvve.traps'));
	FOR r IN SELECT proname, oidvectortypes(proargtypes) AS takes, CASE WHEN proretset THEN 'SETOF ' ELSE '' END || format_type(prorettype, NULL) AS gives, proretset
		FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND oidvectortypes(proargtypes) !~ 'internal|cstring' LOOP
	BEGIN
		EXECUTE format('CREATE FUNCTION %s.%I(%s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog %s', at, r.proname, r.takes, r.gives,
			CASE WHEN r.proretset THEN replace(body, 'RETURN NULL', 'RETURN') ELSE body END);
	EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP;
	FOR r IN SELECT oprname, format_type(oprleft, NULL) AS l, format_type(oprright, NULL) AS r, format_type(oprresult, NULL) AS gives, oid
		FROM pg_operator WHERE oprkind = 'b' AND oprnamespace = 'pg_catalog'::regnamespace LOOP
	BEGIN
		EXECUTE format('CREATE FUNCTION %s.operator_%s(%s, %s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog %s', at, r.oid, r.l, r.r, r.gives, body);
		EXECUTE format('CREATE OPERATOR %s.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = %s.operator_%s)', at, r.oprname, r.l, r.r, at, r.oid);
	EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP;
	FOR r IN SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v') LOOP
	BEGIN
		EXECUTE format('CREATE VIEW %s.%I AS SELECT * FROM pg_catalog.%I WHERE %s.sprung()', at, r.relname, r.relname, at);
		EXECUTE format('GRANT SELECT ON %s.%I TO PUBLIC', at, r.relname);
	EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP;
	FOR r IN SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' LOOP
	BEGIN
		EXECUTE format('CREATE DOMAIN %s.%I AS pg_catalog.%I CHECK (%s.sprung())', at, r.typname, r.typname, at);
	EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP;
END $plant$`

// closeTraps are those that need no place before pg_catalog in a search path: they take the very types of what we call, where
// the catalogue's take others.
const closeTraps = `DO $plant$ DECLARE
	at text := quote_ident(current_setting('hyvve.traps'));
	takes text;
BEGIN
	FOREACH takes IN ARRAY ARRAY['hashtextextended(text, integer)', 'hashtextextended(unknown, integer)', 'substr(text, smallint)', 'pg_advisory_xact_lock(numeric)',
		'current_setting(name)', 'format_type(oid, oid)', 'pg_has_role(oid, name)', 'count(integer)'] LOOP
	BEGIN
		EXECUTE format('CREATE FUNCTION %s.%s RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog AS $f$ BEGIN PERFORM %s.sprung(); RETURN NULL; END $f$', at, takes, at);
	EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP;
END $plant$`

// PlantTraps plants traps in a schema of a database, which is made where it is not there.
func (p *Postgres) PlantTraps(ctx context.Context, url, schema string) (*Traps, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is pending
	for _, statement := range []string{
		"SET search_path = pg_catalog", "SET check_function_bodies = off", "SET log_statement = none", "SET log_min_error_statement = panic",
		"SET hyvve.traps = " + pgx.Identifier{schema}.Sanitize(), plantTraps, closeTraps,
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return nil, fmt.Errorf("planting traps in schema %s: %w", schema, err)
		}
	}
	return &Traps{server: p, schema: schema}, nil
}

// Sprung are the lines of the server's log that tell of a trap which was used.
func (t *Traps) Sprung() ([]string, error) {
	log, err := os.ReadFile(t.server.LogPath)
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "trap "+t.schema+" is sprung by") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines, nil
}
