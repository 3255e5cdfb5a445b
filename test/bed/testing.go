// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// ForTest makes a bed that is closed when the test ends. Where set-up is missing, it skips the test.
func ForTest(t testing.TB) *Bed {
	t.Helper()
	Need(t)
	b, err := New("test", testLog{t})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b.mu.Lock()
			for _, p := range b.parts {
				t.Logf("end of %s:\n%s", p.log, p.tail())
			}
			b.mu.Unlock()
		}
		if err := b.Close(); err != nil {
			t.Errorf("closing the test bed: %v", err)
		}
	})
	return b
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

var shared struct {
	sync.Mutex
	bed       *Bed
	postgres  *Postgres
	databases int

	kubernetes *Kubernetes
	node       *Node
	namespaces int
}

// Database returns the administrator's URL of a database of the test's own, on a server that all tests of the binary
// share. Main stops it. The database goes when the test ends, since a hundred of them fill the disk of a small machine.
func Database(t testing.TB) string {
	t.Helper()
	url, _ := DatabaseOn(t)
	return url
}

// DatabaseOn is Database with its server.
func DatabaseOn(t testing.TB) (string, *Postgres) {
	t.Helper()
	Need(t)
	shared.Lock()
	defer shared.Unlock()
	ctx := context.Background()
	if shared.postgres == nil {
		bed, err := sharedBed()
		if err != nil {
			t.Fatal(err)
		}
		if shared.postgres, err = bed.Postgres(ctx); err != nil {
			shared.postgres = nil
			t.Fatal(err)
		}
	}
	shared.databases++
	name := fmt.Sprintf("test_%d", shared.databases)
	url, err := shared.postgres.NewDatabase(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	server := shared.postgres
	t.Cleanup(func() {
		if err := server.DropDatabase(context.Background(), name); err != nil {
			t.Logf("a database of the test stays until its server stops: %v", err)
		}
	})
	return url, server
}

// Namespace returns an API server that all tests of the binary share, and a namespace of the test's own there. Main stops it.
func Namespace(t testing.TB) (k *Kubernetes, namespace string) {
	t.Helper()
	NeedKubernetes(t)
	shared.Lock()
	defer shared.Unlock()
	ctx := context.Background()
	if shared.kubernetes == nil {
		bed, err := sharedBed()
		if err != nil {
			t.Fatal(err)
		}
		if shared.kubernetes, err = bed.Kubernetes(ctx); err != nil {
			shared.kubernetes = nil
			t.Fatal(err)
		}
	}
	return shared.kubernetes, newNamespace(t, shared.kubernetes)
}

// newNamespace makes one that no other test has. shared is locked.
func newNamespace(t testing.TB, k *Kubernetes) string {
	t.Helper()
	shared.namespaces++
	name := fmt.Sprintf("test-%d", shared.namespaces)
	if err := k.Namespace(context.Background(), name, nil); err != nil {
		t.Fatal(err)
	}
	return name
}

// SharedNode returns a cluster that all tests of the binary share, and a namespace of the test's own there. Main stops it.
func SharedNode(t testing.TB) (n *Node, namespace string) {
	t.Helper()
	NeedKubernetes(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.node == nil {
		bed, err := sharedBed()
		if err != nil {
			t.Fatal(err)
		}
		if shared.node, err = bed.Node(context.Background()); err != nil {
			shared.node = nil
			t.Fatal(err)
		}
	}
	n = shared.node
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the kubelet's log:\n%s", n.kubelet.tail())
		}
	})
	return n, newNamespace(t, n.Kubernetes)
}

// sharedBed returns the bed of what tests share. shared is locked.
func sharedBed() (*Bed, error) {
	if shared.bed == nil {
		var err error
		if shared.bed, err = New("shared", nil); err != nil {
			return nil, err
		}
	}
	return shared.bed, nil
}

// Main runs the tests of a binary that uses Database or Namespace, and stops what they share.
func Main(m *testing.M) {
	code := m.Run()
	shared.Lock()
	if shared.bed != nil {
		if err := shared.bed.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// Need skips a test on real servers under "go test -short", and where set-up or build is missing, as on a fresh clone.
func Need(t testing.TB) {
	t.Helper()
	if testing.Short() {
		kit.Skip(t, "runs on real servers, which -short leaves out")
	}
	if err := equipped(); err != nil {
		kit.Skip(t, fmt.Sprintf(`needs "make setup build": %v`, err))
	}
}

// NeedKubernetes is [Need] for a test on Kubernetes.
func NeedKubernetes(t testing.TB) {
	t.Helper()
	Need(t)
	if _, err := kubernetesTool("kube-apiserver"); err != nil {
		kit.Skip(t, fmt.Sprintf(`needs "make setup": %v`, err))
	}
}

// Promtool returns the path of Prometheus's promtool. Where set-up has not brought it, it skips the test.
func Promtool(t testing.TB) string {
	t.Helper()
	path, err := prometheusTool("promtool")
	if err != nil {
		kit.Skip(t, fmt.Sprintf(`needs "make setup": %v`, err))
	}
	return path
}

// equipped returns an error that names the first part that set-up or build should have brought.
func equipped() error {
	for _, built := range []string{Tool("plugins", PluginName), Tool("bin", "hyvve-sidecar"), Tool("bin", "hyvve-demo")} {
		if !exists(built) {
			return fmt.Errorf("%s is not built", built)
		}
	}
	if !exists(Tool("tools", "dotenv")) {
		return errors.New("npm's dotenv is not fetched")
	}
	if !exists(Tool("tools", "postgres18")) && !exists("/usr/lib/postgresql/18") {
		return errors.New("PostgreSQL 18 is not fetched")
	}
	for _, find := range []func() (string, error){
		VaultBinary,
		bouncerBinary,
		prometheusBinary,
		func() (string, error) { return exec.LookPath("redis-server") },
		func() (string, error) { return (&Bed{}).postgresBin(0) },
	} {
		if _, err := find(); err != nil {
			return err
		}
	}
	return nil
}

// Program is any other program that runs in the bed.
type Program struct {
	LogPath string
	process *process
}

// Program starts one; it ends with the bed, or with us.
func (b *Bed) Program(name, path string, args, env []string) (*Program, error) {
	p, err := b.start(spec{
		name: name, path: path, args: args, dir: b.Dir, env: append([]string{"PATH=" + os.Getenv("PATH")}, env...),
		stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGKILL,
	})
	if err != nil {
		return nil, err
	}
	return &Program{LogPath: p.log, process: p}, nil
}

// Stop asks it to end.
func (p *Program) Stop() error { return p.process.stop(stopPatience) }

// Kill ends it as a crash would.
func (p *Program) Kill() { p.process.kill() }

// PID is its process number.
func (p *Program) PID() int { return p.process.cmd.Process.Pid }

// Running reports whether it has not ended.
func (p *Program) Running() bool { return p.process.running() }

// Done is closed when it has ended.
func (p *Program) Done() <-chan struct{} { return p.process.done }

// Tail is the end of what it printed.
func (p *Program) Tail() string { return p.process.tail() }

// alive reports whether a process runs. One that has ended and was not waited for does not: it holds nothing.
func alive(pid int) bool {
	p, err := proc.Read(pid)
	return err == nil && !p.Ended()
}

// stopped reports whether a process is stopped by a signal, or gone.
func stopped(pid int) bool {
	p, err := proc.Read(pid)
	return err != nil || p.State == 'T' || p.Ended()
}
