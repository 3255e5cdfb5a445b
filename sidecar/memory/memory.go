// SPDX-License-Identifier: Apache-2.0

// Package memory keeps the sidecar small while it has nothing to do: it runs beside every process of every customer.
package memory

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

// Sparing sets the collector so for the whole process, unless the environment says otherwise with GOGC.
func Sparing() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// Keeper releases memory each time that the sidecar has been busy and is no more.
type Keeper struct{ timer *time.Timer }

const quiet = 10 * time.Second

// NewKeeper makes one that does so first a while after now. fault hears why it cannot be done.
func NewKeeper(fault func(error)) Keeper {
	return Keeper{time.AfterFunc(quiet, func() {
		if err := Release(); err != nil {
			fault(err)
		}
	})}
}

// Busy puts it off.
func (k Keeper) Busy() { k.timer.Reset(quiet) }

// Stop ends it.
func (k Keeper) Stop() { k.timer.Stop() }

// Release gives back to the system what is not used: freed memory, and the program's own pages that were needed to start
// and are not any more. Those that are needed again the kernel maps again from its cache. It takes some milliseconds.
func Release() error {
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
				return fmt.Errorf("/proc/self/smaps has another form than is known: %w", err)
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
