// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const told = "HYVVE_TEST_INSIDE"

// Told is what Again has told this process; nothing in the one that the tests run in.
func Told() string { return os.Getenv(told) }

// Again returns a command that runs this test in a process of its own, in new namespaces; in a new user namespace it is root.
// In that process, Told returns tell.
func Again(t *testing.T, tell string, namespaces uintptr) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), told+"="+tell)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	if namespaces&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// Apart runs a test again in a process with mounts and limits of its own, in which it is root, and reports whether this is
// that process. If the caller is not root, a user namespace makes it root.
func Apart(t *testing.T) bool {
	t.Helper()
	if Told() == t.Name() {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	namespaces := uintptr(syscall.CLONE_NEWNS)
	if os.Geteuid() != 0 {
		namespaces |= syscall.CLONE_NEWUSER
	}
	if output, err := Again(t, t.Name(), namespaces).CombinedOutput(); err != nil {
		t.Fatalf("%v (where user namespaces are forbidden, run this test as root)\n%s", err, output)
	}
	return false
}
