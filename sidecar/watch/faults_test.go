// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func limit(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/user/"+name, []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Where the kernel has no more instances or watches to give, files are polled, and that is said once, with the remedy.
// When it has some again, there are events again.
func TestLimitsOfEvents(t *testing.T) {
	if kit.Told() == "" { // its limits are those of a user namespace of its own, and nobody else's
		if out, err := kit.Again(t, "limits", syscall.CLONE_NEWUSER).CombinedOutput(); err != nil {
			t.Fatalf("%v (a user namespace is needed: allow them, as by the sysctl kernel.unprivileged_userns_clone=1 or by running tests as root)\n%s", err, out)
		}
		return
	}
	for name, remedy := range map[string]string{"max_inotify_instances": "raise fs.inotify.max_user_instances", "max_inotify_watches": "raise fs.inotify.max_user_watches"} {
		limit(t, name, "0")
		path := filepath.Join(t.TempDir(), ".env")
		write(t, path, "A=1")
		warned := make(chan error, 100)
		changes := startWith(t, Options{Stable: 20 * time.Millisecond, Poll: 50 * time.Millisecond, Warn: func(err error) { warned <- err }}, path)
		for n := range 5 {
			write(t, path, fmt.Sprint("A=2", n))
			expect(t, changes, "changed without events")
		}
		if len(warned) != 1 {
			t.Fatalf("said %d times", len(warned))
		}
		if err := <-warned; !strings.Contains(err.Error(), "polling only") || !strings.Contains(err.Error(), remedy) {
			t.Error(err)
		}
		h := newHinter([]string{path}, func(error) {})
		defer h.close()
		h.follow()
		limit(t, name, "100")
		h.follow()
		write(t, path, "A=3")
		select {
		case <-h.hints:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: there are events to be had again, and none comes", name)
		}
	}
}

// Events that were lost are a hint as well; other trouble with them is said.
func TestLostEvents(t *testing.T) {
	var warned []error
	h := newHinter(nil, func(err error) { warned = append(warned, err) })
	lossy := &fsnotify.Watcher{Events: make(chan fsnotify.Event), Errors: make(chan error)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.pass(lossy)
	}()
	for _, err := range []error{fsnotify.ErrEventOverflow, errors.New("trouble")} {
		lossy.Errors <- err
		<-h.hints
	}
	for range 10_000 { // nobody takes the hints
		lossy.Events <- fsnotify.Event{}
	}
	<-h.hints
	close(lossy.Events)
	<-ended
	if len(warned) != 1 || !strings.HasSuffix(warned[0].Error(), "trouble") {
		t.Errorf("warned of %v", warned)
	}
}

// cpu is what this process has used of the processor.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// Another process makes ten thousand events a second in the directory: the processor is not taken up by them, and a
// change is seen as soon as without.
func TestTenThousandEventsASecond(t *testing.T) {
	const rate, within = 10_000, 3 * time.Second
	if dir := kit.Told(); dir != "" {
		events(t, dir, rate)
		return
	}
	dir := t.TempDir()
	path := filepath.Join(dir, ".env")
	write(t, path, "A=1")
	cmd := kit.Again(t, dir, 0)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	changes := startWith(t, Options{Poll: time.Hour}, path)
	kit.Until(t, "events are made", func() bool {
		_, err := os.Stat(filepath.Join(dir, "noise"))
		return err == nil
	})
	var slowest time.Duration
	begun, before, n := time.Now(), cpu(t), 0
	for ; time.Since(begun) < within; n++ {
		changed := time.Now()
		write(t, path, fmt.Sprint("A=2", n))
		expect(t, changes, "changed amid events")
		slowest = max(slowest, time.Since(changed))
	}
	used := float64(cpu(t)-before) / float64(time.Since(begun))
	made, err := os.ReadFile(filepath.Join(dir, "made"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s events a second: %d changes, the slowest seen after %s; %.1f %% of a processor used", made, n, slowest, 100*used)
	if len(changes) > 0 {
		t.Error("changes without a change of content")
	}
	if perSecond, err := strconv.Atoi(string(made)); err != nil || perSecond < rate/2 {
		t.Errorf("%s events were made a second, too few to prove anything", made)
	}
	if slowest > 2*time.Second {
		t.Errorf("a change was seen after %s", slowest)
	}
	if used > 0.7 { // with the race detector on, and on a slow machine
		t.Errorf("%.0f %% of a processor is used", 100*used)
	}
}

// events makes them: a write is one, and so is a truncation.
func events(t *testing.T, dir string, rate int) {
	f, err := os.Create(filepath.Join(dir, "noise"))
	must(t, err)
	begun := time.Now()
	for made := 0; ; {
		for made < int(time.Since(begun).Seconds()*float64(rate)) {
			_, err := f.WriteAt([]byte{byte(made)}, int64(made%2)) // two that are the same would count once
			must(t, err, f.Chmod(0o600))
			made += 2
		}
		write(t, filepath.Join(dir, "..made"), fmt.Sprint(int(float64(made)/max(time.Since(begun).Seconds(), 0.1))))
		must(t, os.Rename(filepath.Join(dir, "..made"), filepath.Join(dir, "made")))
		<-time.After(5 * time.Millisecond)
	}
}
