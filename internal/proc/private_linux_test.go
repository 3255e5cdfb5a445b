// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const asPrivate = "PROC_TEST_PRIVATE"

func TestMain(m *testing.M) {
	if os.Getenv(asPrivate) != "" { // to be killed
		if err := Private(); err != nil {
			os.Exit(3)
		}
		_, _ = os.Stdout.WriteString("ready\n")
		<-time.After(time.Hour) // Go would end one that waits for nothing, in the midst of being killed
	}
	os.Exit(m.Run())
}

// A process that is killed by a signal which dumps core leaves none, though its limit allows it.
func TestPrivate(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	raised := limit
	raised.Cur = raised.Max
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &raised); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_CORE, &limit) }()
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Dir, cmd.Env = dir, []string{asPrivate + "=1", "GOTRACEBACK=crash"}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("it says %q, %v", line, err)
	}
	info, err := os.Stat(fmt.Sprintf("/proc/%d/mem", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 {
		t.Errorf("user %d may read its memory", owner)
	}
	if err := cmd.Process.Signal(syscall.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || err == nil {
		t.Fatalf("it ended with %v", err)
	}
	if status.CoreDump() {
		t.Error("a core was dumped")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
}

// Harden leaves no core limit to raise again.
func TestHarden(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	before, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &limit) // takes a privilege
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, uintptr(before), 0, 0, 0)
	}()
	if err := Harden(); err != nil {
		t.Fatal(err)
	}
	var now unix.Rlimit
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil || unix.Getrlimit(unix.RLIMIT_CORE, &now) != nil || now.Max != 0 || dumpable != 0 {
		t.Errorf("limit %+v, dumpable %d, %v", now, dumpable, err)
	}
}
