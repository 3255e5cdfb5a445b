// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// Dump returns what pg_dumpall prints, with further arguments such as --clean. Only the server of the system has that
// program.
func (p *Postgres) Dump(ctx context.Context, args ...string) (string, error) {
	dump := filepath.Join(p.spec.dir, "dump.sql")
	_, err := p.client(ctx, "pg_dumpall", "", append(args, "--file="+dump)...)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(dump)
	return string(text), err
}

// Restore runs a dump in psql, which continues after a statement that fails: a role that is there already cannot be made. It
// returns what psql has said.
func (p *Postgres) Restore(ctx context.Context, dump string) (said string, err error) {
	return p.client(ctx, "psql", dump, "--no-psqlrc", "--quiet", "--dbname=postgres")
}

// client runs a client's program as the administrator.
func (p *Postgres) client(ctx context.Context, name, stdin string, args ...string) (string, error) {
	path := filepath.Join(filepath.Dir(p.spec.path), name)
	if !exists(path) {
		return "", fmt.Errorf("%s has no %s", filepath.Dir(path), name)
	}
	args = append([]string{"--host=127.0.0.1", "--port=" + strconv.Itoa(p.Port), "--username=postgres"}, args...)
	running := spec{
		name: name, path: path, args: args, dir: p.spec.dir, user: p.spec.user, stdin: stdin, dieSignal: syscall.SIGKILL,
		env: append([]string{"PGPASSWORD=" + p.AdminPassword}, p.spec.env...),
	}
	return running.output(ctx)
}

// Empty puts a server without any data in the place of this one, on the same port, as on a new machine.
func (p *Postgres) Empty(ctx context.Context) error {
	if err := errors.Join(p.Stop(), os.RemoveAll(p.data)); err != nil {
		return err
	}
	if err := p.initialize(ctx, filepath.Join(filepath.Dir(p.spec.path), "initdb")); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Copy copies the server's data, for which it is stopped and started again. What it returns puts the copy back.
func (p *Postgres) Copy(ctx context.Context) (restore func(context.Context) error, err error) {
	dir, err := os.MkdirTemp(p.spec.dir, "copy-")
	if err != nil {
		return nil, err
	}
	kept := filepath.Join(dir, "data")
	stopped := func(do func() error) error {
		if err := p.Stop(); err != nil {
			return err
		}
		if err := do(); err != nil {
			return err
		}
		return p.Start(ctx)
	}
	err = stopped(func() error { return exec.CommandContext(ctx, "cp", "-a", p.data, kept).Run() })
	return func(ctx context.Context) error {
		return stopped(func() error {
			return errors.Join(os.RemoveAll(p.data), exec.CommandContext(ctx, "cp", "-a", kept, p.data).Run())
		})
	}, err
}
