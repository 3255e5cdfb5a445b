// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// PostgresOptions say how a server is started.
type PostgresOptions struct {
	Major    int               // version; that of the system if 0. scripts/setup fetches 18
	Settings map[string]string // further ones of postgresql.conf, which win: shared_preload_libraries, for example
	TLS      bool              // and nothing else; its URLs say sslmode=verify-full
	HBA      []string          // lines of pg_hba.conf that come first: "hostssl all app 127.0.0.1/32 cert"
}

// minPostgres is the oldest major version that we run on.
const minPostgres = 13

// postgresBin finds the server's binaries: of the system the newest below Debian's directory, else those of pg_config; of
// a given version Debian's, else those that scripts/setup fetched.
func (b *Bed) postgresBin(version int) (string, error) {
	if version != 0 {
		dir := fmt.Sprintf("/usr/lib/postgresql/%d/bin", version)
		if exists(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
		return b.fetchedPostgres(version)
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	slices.SortFunc(found, func(a, b string) int { return major(b) - major(a) })
	if len(found) > 0 && major(found[0]) >= minPostgres {
		return filepath.Dir(found[0]), nil
	}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		if dir := strings.TrimSpace(string(out)); exists(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", errors.New("no PostgreSQL server is installed; run scripts/setup (make test and make demo do)")
}

func major(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// fetchedPostgres returns the binaries that scripts/setup fetched, or where the servers' user cannot reach those, a copy in
// the bed.
func (b *Bed) fetchedPostgres(version int) (string, error) {
	name := fmt.Sprintf("postgres%d", version)
	tree := Tool("tools", name)
	if !exists(filepath.Join(tree, "bin", "postgres")) {
		return "", fmt.Errorf("no PostgreSQL %d: scripts/setup fetches 18, for x86_64 (make test and make demo run it)", version)
	}
	if !reachable(tree) {
		near := filepath.Join(b.Dir, name)
		if !exists(near) {
			if err := os.CopyFS(near, os.DirFS(tree)); err != nil {
				return "", fmt.Errorf("copying PostgreSQL %d: %w", version, err)
			}
		}
		tree = near
	}
	return filepath.Join(tree, "bin"), nil
}

// args are the server's arguments. What is written is not made safe against a crash of the machine, which is not what
// tests are about.
func (p *Postgres) args() []string {
	args := []string{
		"-D", p.data, "-p", strconv.Itoa(p.Port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off", "-c", "max_connections=200",
		"-c", "log_statement=all", "-c", "log_min_duration_statement=-1",
		"-c", "wal_retrieve_retry_interval=100ms", // a replica looks for its primary soon, not after five seconds
	}
	if p.authority != nil {
		args = append(
			args, "-c", "ssl=on", "-c", "ssl_ca_file="+p.authority.File,
			"-c", "ssl_cert_file="+p.cert.CertFile, "-c", "ssl_key_file="+p.cert.KeyFile,
		)
	}
	for _, name := range slices.Sorted(maps.Keys(p.options.Settings)) {
		args = append(args, "-c", name+"="+p.options.Settings[name])
	}
	return args
}

// writeHBA says who may log in how.
func (p *Postgres) writeHBA() error {
	kind := "host"
	if p.options.TLS {
		kind = "hostssl"
	}
	lines := append(
		slices.Clone(p.options.HBA),
		kind+" all all 127.0.0.1/32 scram-sha-256",
		kind+" replication all 127.0.0.1/32 scram-sha-256",
	)
	// The file is there, and its owner stays.
	return os.WriteFile(filepath.Join(p.data, "pg_hba.conf"), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}
