// SPDX-License-Identifier: Apache-2.0

package reload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// shell returns a shell of a name that no other process has, so that it can be looked for.
func shell(t *testing.T) (path string) {
	t.Helper()
	data, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), fmt.Sprintf("hy-%d", rand.N(1_000_000_000)))
	if err := os.WriteFile(path, data, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// stranger is a process that does not come from this one: its parent has ended. It writes its number to $DIR/pid once it
// is ready, and what it is signalled to $DIR/said.
func stranger(t *testing.T, shell, script string, args ...string) (pid int, said func() string) {
	t.Helper()
	dir := t.TempDir()
	script = `trap 'echo '$$' >>"$DIR/said"' HUP; ` + script + `; echo $$ >"$DIR/pid.new"; mv "$DIR/pid.new" "$DIR/pid"; while :; do read -r line <"$DIR/fifo"; done`
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", `"$@" >/dev/null 2>&1 &`, "sh", shell, "-c", script, shell}, args...)...)
	cmd.Env = []string{"DIR=" + dir, "PATH=" + os.Getenv("PATH")}
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	read := func(name string) string {
		data, _ := os.ReadFile(filepath.Join(dir, name))
		return strings.TrimSpace(string(data))
	}
	kit.Until(t, "it is ready", func() bool { return read("pid") != "" })
	pid, err := strconv.Atoi(read("pid"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	return pid, func() string { return read("said") }
}

func TestProcessByName(t *testing.T) {
	sh := shell(t)
	before := Uptime()
	pid, said := stranger(t, sh, ":", "--port=3000")
	for name, m := range map[string]Match{
		"name":         {Name: filepath.Base(sh)},
		"command line": {Command: regexp.MustCompile(regexp.QuoteMeta(sh) + `.*--port=3\d+$`)},
		"both":         {Name: filepath.Base(sh), Command: regexp.MustCompile(`--port`)},
	} {
		heard := strings.Count(said(), "\n")
		if said() != "" {
			heard++
		}
		s := Signal{Match: m, Signal: syscall.SIGHUP}
		if err := s.Reload(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		kit.Until(t, name+": it is signalled", func() bool { return strings.Count(said()+"\n", strconv.Itoa(pid)) > heard })
		if p, err := s.Identify(proc.Identity{}); err != nil || p.Started < before-20*time.Millisecond || p.Started >= Uptime() {
			t.Errorf("%s: the moment of the start is wrong", name)
		}
	}
	for name, m := range map[string]Match{
		"part of a name":        {Name: filepath.Base(sh)[:5]},
		"another command":       {Name: filepath.Base(sh), Command: regexp.MustCompile(`--port=4`)},
		"another name":          {Name: "no-" + filepath.Base(sh), Command: regexp.MustCompile(`--port=3000`)},
		"a thread of a process": {Name: "kthreadd"},
	} {
		err := Signal{Match: m, Signal: syscall.SIGHUP}.Reload(t.Context())
		if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "PID namespace") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The kernel keeps fifteen bytes of a name; interpreters and those that rename themselves are known by either.
func TestLongName(t *testing.T) {
	sh := shell(t)
	long := sh + "-with-a-long-name"
	if err := os.Rename(sh, long); err != nil {
		t.Fatal(err)
	}
	pid, _ := stranger(t, long, ":")
	got, err := Signal{Match: Match{Name: filepath.Base(long)}}.Identify(proc.Identity{})
	if err != nil || got.PID != pid {
		t.Errorf("%+v, %v; want %d", got, err, pid)
	}
}

// Of a master and its workers, which all match, it is the master.
func TestMasterWithWorkers(t *testing.T) {
	sh := shell(t)
	m := Match{Name: filepath.Base(sh)}
	master, said := stranger(t, sh, `for n in 1 2; do (read -r line <"$DIR/fifo") & done`)
	kit.Until(t, "there are workers", func() bool {
		all, err := proc.All()
		n := 0
		for _, p := range all {
			if p.Parent == master && m.is(p) {
				n++
			}
		}
		return err == nil && n == 2
	})
	t.Cleanup(func() { // before the master's own
		all, err := proc.All()
		if err != nil {
			t.Error(err)
		}
		for _, p := range all {
			if p.Parent == master {
				_ = syscall.Kill(p.PID, syscall.SIGKILL)
			}
		}
	})
	s := Signal{Match: m, Signal: syscall.SIGHUP}
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the master is signalled", func() bool { return said() == strconv.Itoa(master) })
}

// If two processes that are no family match, the error names their ids, not their arguments.
func TestSeveralProcesses(t *testing.T) {
	sh := shell(t)
	var pids []int
	for range 2 {
		pid, _ := stranger(t, sh, ":", "--token="+canary)
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	s := Signal{Match: Match{Name: filepath.Base(sh)}, Signal: syscall.SIGHUP}
	err := s.Reload(t.Context())
	if err == nil || errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), fmt.Sprintf("processes %d %d match", pids[0], pids[1])) ||
		!strings.Contains(err.Error(), "pid_file") || strings.Contains(err.Error(), canary) {
		t.Error(err)
	}
	if started, err := s.ReloadUnlessStarted(t.Context(), 0); started || err == nil {
		t.Error("one of several is taken for the workload")
	}
}

// This process, and what it has started, are not the workload.
func TestNotOneself(t *testing.T) {
	sh := shell(t)
	cmd := exec.Command(sh, "-c", "read -r line")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Wait()
	}()
	for _, name := range []string{filepath.Base(sh), filepath.Base(os.Args[0])} {
		if _, err := (Signal{Match: Match{Name: name, Command: regexp.MustCompile(regexp.QuoteMeta(filepath.Dir(os.Args[0])) + "|" + sh)}}).Identify(proc.Identity{}); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIdentity(t *testing.T) {
	sh := shell(t)
	s := Signal{Match: Match{Name: filepath.Base(sh)}, Signal: syscall.SIGHUP}
	pid, _ := stranger(t, sh, ":")
	first, err := s.Identify(proc.Identity{})
	if err != nil || first.PID != pid || first.Started == 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	if again, err := s.Identify(first); err != nil || again != first {
		t.Errorf("%+v, %v", again, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "it is gone", func() bool { _, err := s.Identify(first); return errors.Is(err, ErrNotRunning) })
	next, _ := stranger(t, sh, ":")
	if second, err := s.Identify(first); err != nil || second.PID != next || second == first {
		t.Errorf("%+v, %v", second, err)
	}
}

// A number that was given to another process meanwhile is not signalled: that process would end of it.
func TestNumberOfAnotherProcess(t *testing.T) {
	for name, open := range map[string]func(int, int) (int, error){
		"by handle":      unix.PidfdOpen,
		"without handle": func(int, int) (int, error) { return 0, syscall.ENOSYS },
		"filtered":       func(int, int) (int, error) { return 0, syscall.EPERM },
	} {
		t.Run(name, func(t *testing.T) {
			openHandle = open
			defer func() { openHandle = unix.PidfdOpen }()
			pid, said := stranger(t, "/bin/sh", ":")
			p, err := proc.Read(pid)
			if err != nil {
				t.Fatal(err)
			}
			earlier := p
			earlier.Started--
			if err := (target{Info: earlier}).signal(syscall.SIGKILL); !errors.Is(err, ErrNotRunning) {
				t.Errorf("%v", err)
			}
			if err := (target{Info: p}).signal(syscall.SIGHUP); err != nil {
				t.Error(err)
			}
			kit.Until(t, "it is signalled", func() bool { return said() != "" })
		})
	}
}

func TestNotPermitted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("a workload of another user cannot be tested: only root may become somebody else; run this test as root")
	}
	sh := shell(t)
	pid, said := stranger(t, sh, ":")
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // and it is never unlocked: the thread ends with us
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			errs <- errno
			return
		}
		errs <- Signal{Match: Match{Name: filepath.Base(sh)}, Signal: syscall.SIGHUP}.Reload(context.Background())
	}()
	err := <-errs
	if err == nil || errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), fmt.Sprintf("process %d belongs to another user; run the sidecar as that user, or with CAP_KILL", pid)) {
		t.Error(err)
	}
	if said() != "" {
		t.Error("it was signalled")
	}
}
