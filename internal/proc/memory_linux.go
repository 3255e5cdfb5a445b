// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// gcPercent has garbage collected when there is half as much of it as there is of what is used, and not before 2 MB of
// both (the runtime's 4 MB at 100).
const gcPercent = 50

// SpareMemory sets the collector so for the whole process, unless the environment variable GOGC is set. The sidecar runs beside
// every process of every customer.
func SpareMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// MemoryKeeper releases memory each time that the process has been busy and is idle again.
type MemoryKeeper struct{ timer *time.Timer }

const quiet = 10 * time.Second

// KeepMemorySmall returns a MemoryKeeper that first releases memory 10 seconds from now. It calls fault with the error if it cannot.
func KeepMemorySmall(fault func(error)) MemoryKeeper {
	return MemoryKeeper{time.AfterFunc(quiet, func() {
		if err := ReleaseMemory(); err != nil {
			fault(err)
		}
	})}
}

// Busy postpones the release.
func (k MemoryKeeper) Busy() { k.timer.Reset(quiet) }

// Stop ends the MemoryKeeper.
func (k MemoryKeeper) Stop() { k.timer.Stop() }

// ReleaseMemory returns to the system what is not used: freed memory, and the program's own pages that were needed to start
// and are not any more. Those that are needed again the kernel maps again from its cache. It takes some milliseconds.
func ReleaseMemory() error {
	debug.FreeOSMemory()
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer maps.Close() //nolint:errcheck // read only
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	var from, to uintptr
	ours := false // the mapping of now is the program's, and cannot be written to
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) < 2:
		case !strings.HasSuffix(fields[0], ":"): // another mapping (proc_pid_smaps(5))
			if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil {
				return fmt.Errorf("/proc/self/smaps has an unknown form: %w", err)
			}
			ours = strings.HasSuffix(lines.Text(), program) && (fields[1] == "r-xp" || fields[1] == "r--p")
		case ours && fields[0] == "Anonymous:" && fields[1] == "0":
			// Only what never was written to either, as the loader does before it takes the right away (RELRO): dropping
			// that loses nothing (madvise(2), MADV_DONTNEED).
			if _, _, fault := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); fault != 0 {
				return fmt.Errorf("releasing the program's pages: %w", fault)
			}
		}
	}
	return lines.Err()
}
