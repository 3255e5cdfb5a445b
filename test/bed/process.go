// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// starter starts all parts from one thread that lives as long as this process: a parent-death signal is sent when the
// thread that forked ends, not the process.
var starter = func() chan func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for do := range work {
			do()
		}
	}()
	return work
}()

// process is a running part.
type process struct {
	name       string
	log        string // path of what it prints
	cmd        *exec.Cmd
	stopSignal syscall.Signal
	entered    bool
	done       chan struct{} // closed when it has ended
	err        error         // of its end; read after done
}

// spec says how to start a part.
type spec struct {
	name       string
	path       string
	args       []string
	env        []string
	stdin      string // what it reads there
	dir        string
	user       *account       // nil: as we are
	stopSignal syscall.Signal // asks it to end
	dieSignal  syscall.Signal // sent by the kernel when we are gone
	entered    bool           // path is nsenter, and the part is its child
}

// account is the user that a server runs as.
type account struct{ uid, gid int }

// serverAccount returns a user for servers that refuse to run as root; nil where we are not root.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if uidErr == nil && gidErr == nil {
			return &account{uid, gid}, nil
		}
	}
	return nil, errors.New("neither user postgres nor nobody exists; PostgreSQL refuses to run as root")
}

// own hands files to the account.
func (a *account) own(paths ...string) error {
	if a == nil {
		return nil
	}
	for _, path := range paths {
		if err := os.Chown(path, a.uid, a.gid); err != nil {
			return err
		}
	}
	return nil
}

func (s spec) command(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.path, s.args...)
	cmd.Dir, cmd.Env = s.dir, s.env
	if s.stdin != "" {
		cmd.Stdin = strings.NewReader(s.stdin)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: s.dieSignal, Setpgid: true}
	if s.user != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(s.user.uid), Gid: uint32(s.user.gid)}
	}
	return cmd
}

// start starts a part with its output in a file of the bed.
func (b *Bed) start(s spec) (*process, error) {
	p := &process{name: s.name, log: filepath.Join(b.Dir, s.name+".log"), stopSignal: s.stopSignal, entered: s.entered, done: make(chan struct{})}
	output, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	defer output.Close() //nolint:errcheck // the part has its own descriptor
	p.cmd = s.command(context.Background())
	p.cmd.Stdout, p.cmd.Stderr = output, output
	started := make(chan error)
	starter <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", s.name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	b.keep(p)
	return p, nil
}

// run runs a command to its end.
func (s spec) run(ctx context.Context) error {
	_, err := s.output(ctx)
	return err
}

// output runs a command to its end, and returns what it has printed.
func (s spec) output(ctx context.Context) (string, error) {
	cmd := s.command(ctx)
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	finished := make(chan error)
	starter <- func() { finished <- cmd.Run() }
	if err := <-finished; err != nil {
		return "", fmt.Errorf("%s: %w\n%s", s.name, err, output.String())
	}
	return output.String(), nil
}

// await polls until ready says so, the part ends, or ctx does.
func (p *process) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended while starting: %w\n%s", p.name, p.err, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.name, err, p.tail())
		case <-tick.C:
		}
	}
}

// tail is the end of what the part printed.
func (p *process) tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return ""
	}
	const most = 4096
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return string(data)
}

// stop asks the part to end, and makes it after patience.
func (p *process) stop(patience time.Duration) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	_ = p.signal(p.stopSignal)
	_ = p.signal(syscall.SIGCONT) // one that stands still would not notice
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
	}
	p.kill()
	return nil
}

// signal sends one to the part itself: nsenter passes none on, and runs until its child has ended.
func (p *process) signal(s syscall.Signal) error {
	if p.entered {
		if below, err := children(p.cmd.Process.Pid); err == nil && len(below) == 1 {
			return syscall.Kill(below[0], s)
		}
	}
	return p.cmd.Process.Signal(s)
}

// kill ends the part as a crash would, with its process group.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// pause makes the part stand still, as a partition of the network would make it seem: the kernel keeps accepting
// connections for it, and nobody answers.
func (p *process) pause() error { return p.signal(syscall.SIGSTOP) }

// resume lets it go on.
func (p *process) resume() error { return p.signal(syscall.SIGCONT) }

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

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
