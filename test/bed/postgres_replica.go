// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Replica is a streaming replica of a Postgres, which answers queries. Its roles and databases are those of the primary.
type Replica struct {
	Postgres
	primary *Postgres
}

// Replica starts one. It logs in to the primary as a role of its own, and a slot keeps there what it has yet to get,
// however long it is away. The primary has to be of version 15 at least.
func (p *Postgres) Replica(ctx context.Context) (*Replica, error) {
	made, err := p.bed.newPostgres(p.options, filepath.Dir(p.spec.path), p.AdminPassword)
	if err != nil {
		return nil, err
	}
	r := &Replica{Postgres: *made, primary: p}
	r.authority, r.cert = p.authority, p.cert
	role := fmt.Sprintf("replica_%d", r.Port)
	if err := r.backup(ctx, role); err != nil {
		return nil, fmt.Errorf("copying the primary: %w", err)
	}
	if err := r.follow(ctx, role); err != nil {
		return nil, err
	}
	if err := r.Start(ctx); err != nil {
		return nil, err
	}
	return r, r.AwaitReplay(ctx)
}

// backup copies the primary's data while it runs, as pg_basebackup does, which not all packages of PostgreSQL have. The
// slot holds the log from before the copy.
func (r *Replica) backup(ctx context.Context, slot string) error {
	conn, err := pgx.Connect(ctx, r.primary.AdminURL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is pending
	if _, err := conn.Exec(ctx, "SELECT pg_create_physical_replication_slot($1, true)", slot); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "SELECT pg_backup_start('replica', true)"); err != nil {
		return err
	}
	if err := copyData(r.primary.data, r.data, r.spec.user); err != nil {
		return err
	}
	var label string
	if err := conn.QueryRow(ctx, "SELECT labelfile FROM pg_backup_stop(false)").Scan(&label); err != nil {
		return err
	}
	return r.put(filepath.Join(r.data, "backup_label"), label)
}

// follow makes the server a replica, by a role of that name.
func (r *Replica) follow(ctx context.Context, role string) error {
	password, err := r.primary.NewRole(ctx, role)
	if err != nil {
		return err
	}
	if _, err := query(ctx, r.primary.AdminURL("postgres"), "ALTER ROLE "+role+" REPLICATION"); err != nil {
		return err
	}
	passfile := filepath.Join(r.spec.dir, "pgpass")
	primary := fmt.Sprintf("host=127.0.0.1 port=%d user=%s passfile=%s application_name=%s", r.primary.Port, role, passfile, role)
	if r.authority != nil {
		primary += " sslmode=verify-full sslrootcert=" + r.authority.File
	}
	auto := filepath.Join(r.data, "postgresql.auto.conf")
	settings, err := os.ReadFile(auto)
	if err != nil {
		return err
	}
	return errors.Join(
		r.put(passfile, "*:*:*:"+role+":"+password+"\n"),
		r.put(auto, fmt.Sprintf("%sprimary_conninfo = '%s'\nprimary_slot_name = '%s'\n", settings, primary, role)),
		r.put(filepath.Join(r.data, "standby.signal"), ""),
	)
}

func (r *Replica) put(path, text string) error {
	return errors.Join(os.WriteFile(path, []byte(text), 0o600), r.spec.user.own(path))
}

// AwaitReplay waits until the replica has replayed all that the primary has written by now.
func (r *Replica) AwaitReplay(ctx context.Context) error {
	written, err := query(ctx, r.primary.AdminURL("postgres"), "SELECT pg_current_wal_insert_lsn() AS lsn")
	if err != nil {
		return err
	}
	ask := fmt.Sprintf("SELECT coalesce(pg_last_wal_replay_lsn() >= '%s', false) AS there", written[0]["lsn"])
	return r.awaitAnswer(ctx, "the replica to catch up", ask, "there", "t")
}

// PauseReplay makes the replica replay no more, while it still answers: what happens at the primary does not arrive
// there. A restart of the replica ends that.
func (r *Replica) PauseReplay(ctx context.Context) error {
	if _, err := query(ctx, r.AdminURL("postgres"), "SELECT pg_wal_replay_pause()"); err != nil {
		return err
	}
	return r.awaitAnswer(ctx, "the replica to pause", "SELECT pg_get_wal_replay_pause_state() AS state", "state", "paused")
}

// ResumeReplay lets it go on.
func (r *Replica) ResumeReplay(ctx context.Context) error {
	_, err := query(ctx, r.AdminURL("postgres"), "SELECT pg_wal_replay_resume()")
	return err
}

func (r *Replica) awaitAnswer(ctx context.Context, what, sql, column, want string) error {
	return until(ctx, what, func(ctx context.Context) error {
		rows, err := query(ctx, r.AdminURL("postgres"), sql)
		if err == nil && rows[0][column] != want {
			err = errors.New(strconv.Quote(rows[0][column]))
		}
		return err
	})
}

// Directories of a server's data that a copy has empty: what is in them is of the running server, or comes by the log.
var notCopied = []string{"pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"}

// copyData copies the data of a server that runs, so that owner has them. What vanishes meanwhile is not needed.
func copyData(from, to string, owner *account) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		top, _, below := strings.Cut(name, string(filepath.Separator))
		switch {
		case entry.IsDir() && (!below || top == "pg_wal" || !slices.Contains(notCopied, top)):
			return errors.Join(os.Mkdir(target, 0o700), owner.own(target))
		case entry.IsDir():
			return fs.SkipDir
		case below && slices.Contains(notCopied, top), strings.HasPrefix(name, "postmaster."):
			return nil
		}
		if err := copyFile(path, target); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		return owner.own(target)
	})
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // read only
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
