// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// asExec makes this binary "hyvve-sidecar exec". The workload does not see the name.
const asExec = "VAULT_TEST_AS_EXEC"

func TestMain(m *testing.M) {
	if os.Getenv(asExec) == "" {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // under nohup, too, what tests start hears it
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := usage.Run(ctx, NewExec(), os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// execed is a sidecar that runs a workload, a shell.
type execed struct {
	*running
	cmd  *exec.Cmd
	done chan struct{}
}

// In scripts, "says" adds a line to what said gives, and "rests" waits and may be signalled.
const prelude = `says() { echo "$@" >>"$DIR/said"; }; rests() { while :; do sleep 5 & wait $!; done; }; `

func startExec(t *testing.T, fake *fakeVault, dir, script string, flags ...string) *execed {
	t.Helper()
	return startExecBy(t, nil, fake, dir, script, flags...)
}

// startExecBy starts it by another program.
func startExecBy(t *testing.T, by []string, fake *fakeVault, dir, script string, flags ...string) *execed {
	t.Helper()
	e := &execed{running: &running{t: t, dir: dir, fake: fake, path: filepath.Join(dir, "secrets.json"), log: &kit.Log{}}, done: make(chan struct{})}
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("root"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"--vault-addr=" + fake.server.URL, "--token-file=" + token, "--workload=api", "--instance=api-1", "--log-level=debug"}, flags...)
	args = slices.Concat(by, []string{os.Args[0]}, args, []string{"--", "/bin/sh", "-c", prelude + script})
	e.cmd = exec.Command(args[0], args[1:]...)
	e.cmd.Env = []string{asExec + "=1", "VAULT_TOKEN=vault-token", "PATH=" + os.Getenv("PATH"), "DIR=" + dir, "TOKEN=stale"}
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	e.cmd.WaitDelay = 100 * time.Millisecond // what a killed one leaves holds its output
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = e.cmd.Wait() // ends tells its status
		close(e.done)
	}()
	t.Cleanup(func() {
		_ = e.cmd.Process.Kill()
		<-e.done
		if strings.Contains(e.log.String(), canary) {
			t.Errorf("a secret stands in the log:\n%s", e.log)
		}
	})
	return e
}

func (e *execed) said() []string {
	data, _ := os.ReadFile(filepath.Join(e.dir, "said"))
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

func (e *execed) until(what string, holds func() bool) {
	e.t.Helper()
	kit.Until(e.t, what, holds, func() string { return fmt.Sprintf("the workload says %q; log:\n%s", e.said(), e.log) })
}

func (e *execed) hears(n int, want string) string {
	e.t.Helper()
	e.until(fmt.Sprintf("line %d is %q", n, want), func() bool {
		said := e.said()
		return len(said) >= n && strings.Contains(said[n-1], want)
	})
	return e.said()[n-1]
}

func (e *execed) ends(status int) {
	e.t.Helper()
	select {
	case <-e.done:
	case <-time.After(30 * time.Second):
		e.t.Fatalf("the sidecar does not end; log:\n%s", e.log)
	}
	if got := e.cmd.ProcessState.ExitCode(); got != status {
		e.t.Errorf("exit status %d, want %d; log:\n%s", got, status, e.log)
	}
}

// commandLines searches those of all processes.
func commandLines(t *testing.T) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	if len(files) == 0 {
		t.Fatal("no processes are seen")
	}
	for _, file := range files {
		if data, _ := os.ReadFile(file); strings.Contains(string(data), canary) {
			t.Errorf("a secret stands in %s", file)
		}
	}
}

func TestExecRestartsOnceAChange(t *testing.T) {
	e := startExec(t, newFakeVault(t), t.TempDir(),
		`says "$TOKEN $TOKEN_PREVIOUS $TOKEN_ACCEPTS $HYVVE_ETAG [$VAULT_TOKEN$`+asExec+`]"; rests`, "--accepts", "--previous")
	for n := 1; n <= 3; n++ {
		e.fake.change(func() { e.fake.version = n })
		value, old := fmt.Sprintf("%s-%d", canary, n), canary+"-old"
		e.hears(n, fmt.Sprintf(`%s %s ["%s","%s"] etag-%d-0 []`, value, old, value, old, n))
		e.await("loaded", loaded(fmt.Sprintf("etag-%d-0", n)))
		commandLines(t)
	}
	// Another etag, with the same content.
	e.fake.change(func() { e.fake.work = []workload.Work{{ID: "w1", Phase: workload.PhaseStage}} })
	e.await("loaded under the new etag", loaded("etag-3-1"))
	if said := e.said(); len(said) != 3 {
		t.Errorf("%d starts for 3 bundles", len(said))
	}
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	e.ends(128 + 15)
	if e.fake.count("leave") != 1 {
		t.Error("the lease was not given back")
	}
}

// Stopping may take longer than the lease lasts, without which the instance would hold no rotation up.
func TestExecKeepsItsLeaseWhileTheWorkloadStops(t *testing.T) {
	fake := newFakeVault(t)
	fake.lease = 3
	e := startExec(t, fake, t.TempDir(), `trap 'says stopping; while [ ! -e "$DIR/go" ]; do sleep 0.05; done; exit 0' TERM; says up; rests`, "--stop-timeout=1m")
	e.hears(1, "up")
	e.await("loaded", loaded("etag-1-0"))
	fake.change(func() { fake.version = 2 })
	e.hears(2, "stopping")
	renewed := fake.count("extend")
	e.until("the lease is renewed again and again", func() bool { return fake.count("extend") >= renewed+3 })
	if err := os.WriteFile(filepath.Join(e.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e.hears(3, "up")
	e.await("loaded", loaded("etag-2-0"))
}

func TestExecPassesSignalsAndStatusOn(t *testing.T) {
	e := startExec(t, newFakeVault(t), t.TempDir(), `trap 'says usr1' USR1; trap 'says int; exit 7' INT; says ready; rests`)
	e.hears(1, "ready")
	for n, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGINT} {
		if err := e.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		e.hears(n+2, []string{"usr1", "int"}[n])
	}
	e.ends(7)
	if e.fake.count("leave") != 1 {
		t.Error("the lease was not given back")
	}
}

// A workload that ends by itself ends the sidecar. One that fails before it has proved itself holds a rotation up, which
// an instance that is gone would not.
func TestExecEndsWithTheWorkload(t *testing.T) {
	for script, status := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -KILL $$": 128 + 9} {
		t.Run(script, func(t *testing.T) {
			e := startExec(t, newFakeVault(t), t.TempDir(), script)
			e.ends(status)
			var last map[string]any
			for len(e.fake.reports) > 0 {
				if last = <-e.fake.reports; last["healthy"] == true || last["etag"] != "" {
					t.Errorf("a workload that has ended at once was reported as %v", last)
				}
			}
			if status == 0 {
				if e.fake.count("leave") != 1 {
					t.Error("the lease was not given back")
				}
				return
			}
			if want := fmt.Sprintf("ended by itself with status %d", status); !unhealthy(want)(last) || e.fake.count("leave") != 0 {
				t.Errorf("last report %v; leases given back: %d", last, e.fake.count("leave"))
			}
		})
	}
}

// One that has proved itself and ends later is gone, as any that is stopped.
func TestExecEndsLater(t *testing.T) {
	e := startExec(t, newFakeVault(t), t.TempDir(), `trap 'exit 4' USR1; rests`)
	e.await("loaded", loaded("etag-1-0"))
	if err := e.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	e.ends(4)
	if e.fake.count("leave") != 1 {
		t.Error("the lease was not given back")
	}
}

func TestExecWaitsForVault(t *testing.T) {
	fake := newFakeVault(t)
	fake.fail["auth"], fake.fail["creds"] = 503, 503
	e := startExec(t, fake, t.TempDir(), `says "$TOKEN"; rests`)
	e.until("it has tried", func() bool { return fake.count("auth") >= 2 })
	fake.change(func() { delete(fake.fail, "auth") })
	e.until("it has tried", func() bool { return fake.count("creds") >= 2 })
	if said := e.said(); said[0] != "" || strings.Count(e.log.String(), "waits for its first bundle") != 1 {
		t.Errorf("it says %q; log:\n%s", said, e.log)
	}
	if !regexp.MustCompile(`"retry_in":"[0-9.]+(ms|s)"`).MatchString(e.log.String()) {
		t.Errorf("durations have no unit:\n%s", e.log)
	}
	fake.change(func() { clear(fake.fail) })
	e.hears(1, canary+"-1")
	// Away again, the workload stays as it is.
	pid := e.workloadPID()
	before := fake.count("creds")
	fake.change(func() { fake.fail["watch"], fake.fail["creds"], fake.version = 503, 503, 2 })
	e.until("it has tried", func() bool { return fake.count("creds") >= before+2 })
	if e.workloadPID() != pid || len(e.said()) != 1 {
		t.Error("the workload was touched while Vault was away")
	}
}

// Asked to end while it waits, the sidecar does.
func TestExecEndsWithoutAWorkload(t *testing.T) {
	fake := newFakeVault(t)
	fake.fail["auth"] = 503
	e := startExec(t, fake, t.TempDir(), `says started`)
	e.until("it waits", func() bool { return strings.Contains(e.log.String(), "waits for its first bundle") })
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	e.ends(128 + 15)
}

// workloadPID is the sidecar's child.
func (e *execed) workloadPID() int {
	e.t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", e.cmd.Process.Pid))
	for _, file := range files {
		data, _ := os.ReadFile(file)
		if fields := strings.Fields(string(data)); len(fields) > 0 {
			if pid, err := strconv.Atoi(fields[0]); err == nil {
				return pid
			}
		}
	}
	e.t.Fatal("the sidecar has no child")
	return 0
}

// SIGKILL of the sidecar takes the workload along; the next sidecar starts another.
func TestExecIsKilled(t *testing.T) {
	fake, dir := newFakeVault(t), t.TempDir()
	for n := 1; n <= 2; n++ {
		e := startExec(t, fake, dir, `trap '' TERM; says "$TOKEN"; rests`)
		e.hears(n, canary+"-1")
		e.await("loaded", loaded("etag-1-0"))
		pid := e.workloadPID()
		if err := e.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		e.until("the workload is gone", func() bool { return !kit.Alive(pid) })
	}
}

// The environment stays; the file changes, and the signal says so.
func TestExecSignals(t *testing.T) {
	dir := t.TempDir()
	e := startExec(t, newFakeVault(t), dir, `trap 'says "$TOKEN $(cat $DIR/.env) $$"' USR2; says "$TOKEN $(cat $DIR/.env) $$"; rests`,
		"--on-change=signal", "--signal=USR2", "--dotenv="+filepath.Join(dir, ".env"))
	first := e.hears(1, canary+"-1 TOKEN="+canary+"-1")
	e.await("loaded", loaded("etag-1-0"))
	e.fake.change(func() { e.fake.version = 2 })
	second := e.hears(2, canary+"-1 TOKEN="+canary+"-2")
	e.await("loaded", loaded("etag-2-0"))
	if first[strings.LastIndex(first, " "):] != second[strings.LastIndex(second, " "):] {
		t.Error("it is another process")
	}
}

// A value that no environment can hold is a fault that is reported, and the workload that runs stays.
func TestExecKeepsWhatRuns(t *testing.T) {
	e := startExec(t, newFakeVault(t), t.TempDir(), `says "$TOKEN"; rests`)
	e.await("loaded", loaded("etag-1-0"))
	e.fake.change(func() { e.fake.version, e.fake.suffix = 2, "\x00" })
	e.await("the reason", unhealthy("TOKEN holds a NUL"))
	if said := e.said(); len(said) != 1 {
		t.Errorf("%d starts", len(said))
	}
	e.fake.change(func() { e.fake.version, e.fake.suffix = 3, "" })
	e.hears(2, canary+"-3")
	e.await("loaded", loaded("etag-3-0"))
}

func TestExecRefusals(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	common := []string{"--vault-addr=http://127.0.0.1:1", "--token-file=/x", "--workload=api"}
	for name, c := range map[string]struct {
		args   []string
		status int
		want   string
	}{
		"no such file":   {append(common, "--", "/no/such/program"), 127, "workload /no/such/program cannot be started"},
		"not in PATH":    {append(common, "--", "hyvve-no-such-program"), 127, "one that PATH finds"},
		"not executable": {append(common, "--", script), 126, "workload " + script + " cannot be started: permission denied"},
		"no command":     {common, 2, "write it after --"},
		"no --":          {append(common, "node", "server.js"), 2, "stands after --"},
		"pid file":       {append(common, "--pid-file=/x", "--", "true"), 2, "flag --pid-file is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			output := &kit.Log{}
			if status := usage.Run(t.Context(), NewExec(), c.args, output, output); status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			if !strings.Contains(output.String(), c.want) {
				t.Errorf("no %q in:\n%s", c.want, output)
			}
		})
	}
}

func TestExecErrorsSayWhatToWriteInstead(t *testing.T) {
	base := strings.NewReplacer(`reload "signal" { pid_file = "/run/api.pid" }`, "exec {\n#here\n}").Replace(good)
	with := func(lines string) string { return strings.Replace(base, "#here", lines, 1) }
	noFile, _, _ := strings.Cut(base, "proxy {") // which keeps its state beside a file
	noFile = strings.Replace(noFile, noFile[strings.Index(noFile, "render"):strings.Index(noFile, "exec")], "", 1)
	for name, c := range map[string]struct {
		text  string
		args  []string
		wants []string // none: it is good
	}{
		"nothing set":       {base, nil, nil},
		"all set":           {with("command = [\"node\", \"server.js\"]\nkeys = [\"A\"]\naccepts = true\nprevious = true\nstop_signal = \"INT\"\nstop_timeout = \"5s\""), nil, nil},
		"etag without file": {noFile, nil, nil},
		"after --":          {base, []string{"--stop-timeout=3s", "--", "node"}, nil},
		"flags alone":       {strings.Replace(base, "exec {\n#here\n}", "", 1), []string{"--", "node"}, nil},
		"reload":            {good + "exec {}\n", nil, []string{"exec: it and a reload block exclude each other", "on_change"}},
		"watch":             {"watch { paths = [\"/x\"] }\nexec {}", nil, []string{"exec: a vault block is missing"}},
		"attribute":         {with(`on_chance = "none"`), nil, []string{`"on_chance"`, `"on_change"`}},
		"change":            {with(`on_change = "restrat"`), nil, []string{`exec: on_change = "restrat" is not known`, `did you mean "restart"`}},
		"no file":           {strings.Replace(noFile, "#here", `on_change = "signal"`, 1), nil, []string{`on_change = "signal"`, "add a render block", "expect_etag needs"}},
		"none, no file":     {noFile, []string{"--on-change=none"}, []string{`on_change = "none"`, "cannot be changed"}},
		"not all in files":  {strings.Replace(with(`on_change = "signal"`), `mode = "0640"`, `keys = ["A"]`, 1), nil, []string{"some in no file; set keys"}},
		"one in no file":    {strings.Replace(with("on_change = \"signal\"\nkeys = [\"A\", \"B\"]"), `mode = "0640"`, `keys = ["A"]`, 1), nil, []string{"B would be in the environment only"}},
		"idle signal":       {with(`signal = "HUP"`), nil, []string{`signal = "HUP" is for on_change = "signal"`, "stop_signal"}},
		"signal":            {with("on_change = \"signal\"\nsignal = \"SIGHAP\""), nil, []string{`exec: signal: signal "SIGHAP" is not known`}},
		"signal KILL":       {with("on_change = \"signal\"\nsignal = \"SIGKILL\""), nil, []string{`signal = "SIGKILL" cannot be handled`}},
		"stop signal":       {with(`stop_signal = "SIGSTOP"`), nil, []string{`stop_signal = "SIGSTOP" cannot be handled`}},
		"stop timeout":      {with(`stop_timeout = "long"`), nil, []string{`stop_timeout = "long" is not a duration`, `"10s"`}},
		"overlap":           {base, []string{"--overlap"}, nil},
		"overlap, blind":    {strings.Replace(with(`overlap = true`), "expect_etag = true", "", 1), nil, []string{"exec: overlap needs", "expect_etag = true"}},
		"overlap, none":     {strings.NewReplacer(`health "http"`, `health "none"`).Replace(with(`overlap = true`)), nil, []string{`health "none": expect_etag is of "http" and "command"`}},
		"overlap, signal":   {with("overlap = true\non_change = \"signal\""), nil, []string{"exec: overlap needs on_change = \"restart\""}},
		"keys":              {base, []string{"--keys=A, B"}, []string{`--keys: env " B" is not an environment name`}},
		"empty command":     {with(`command = [""]`), nil, []string{"command begins with an empty word"}},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := validate(t, c.text, c.args...)
			if want := min(2*len(c.wants), 2); status != want {
				t.Errorf("status %d, want %d:\n%s", status, want, text)
			}
			for _, want := range c.wants {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in:\n%s", want, text)
				}
			}
		})
	}
}

// "agent" does not quietly leave an exec block out, and the two have different help.
func TestExecIsAnotherCommand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sidecar.hcl")
	text := strings.Replace(good, `reload "signal" { pid_file = "/run/api.pid" }`, "exec {}", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	output := &kit.Log{}
	if status := usage.Run(t.Context(), NewCommand(), []string{"--config=" + path}, output, output); status != 2 || !strings.Contains(output.String(), `run it with "hyvve-sidecar exec"`) {
		t.Errorf("status %d: %s", status, output)
	}
	output = &kit.Log{}
	if status := usage.Run(t.Context(), NewExec(), []string{"--help"}, output, output); status != 0 || !strings.Contains(output.String(), "--stop-timeout") || strings.Contains(output.String(), "--pid-file") {
		t.Errorf("status %d: %s", status, output)
	}
}

// As the first process of a container: the end is the same, and what is left behind is reaped.
func TestExecAsTheFirstProcess(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatalf("exec as process 1 of a container cannot be tested: %v; install util-linux, which has it", err)
	}
	if output, err := exec.Command(unshare, "--pid", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Fatalf("exec as process 1 of a container cannot be tested: %v: %s; run this test as root, with CAP_SYS_ADMIN (docker run --cap-add=SYS_ADMIN)", err, output)
	}
	e := startExecBy(t, []string{unshare, "--pid", "--fork", "--mount-proc", "--kill-child"}, newFakeVault(t), t.TempDir(), `
		echo "parent $PPID" >>"$DIR/said"
		trap 'exit 6' USR1
		(setsid sh -c 'exit 1' &)
		while sleep 0.05; do set -- $(grep -l "^State:.Z" /proc/[0-9]*/status 2>/dev/null); says "zombies $#"; done`)
	e.hears(1, "parent 1")
	e.until("the orphan is there, and then reaped", func() bool {
		said := e.said()
		return slices.Contains(said, "zombies 1") && said[len(said)-1] == "zombies 0"
	})
	commandLines(t)
	first := e.workloadPID() // unshare's child: the sidecar
	if err := syscall.Kill(first, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	e.ends(6)
}

// The next process is up before the one before is stopped; the health check knows them apart by their etags.
func TestExecOverlaps(t *testing.T) {
	dir := t.TempDir()
	health := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		etag, _ := os.ReadFile(filepath.Join(dir, "etag"))
		w.Header().Set("X-Hyvve-Etag", strings.TrimSpace(string(etag)))
	}))
	defer health.Close()
	config := filepath.Join(t.TempDir(), "sidecar.hcl")
	text := fmt.Sprintf("exec { overlap = true }\nhealth \"http\" {\n url = %q\n expect_etag = true\n deadline = \"500ms\"\n interval = \"50ms\"\n}\n", health.URL)
	vault := "vault {\n auth \"token_file\" { path = \"/replaced\" }\n}\n"
	if err := os.WriteFile(config, []byte(text+vault), 0o600); err != nil {
		t.Fatal(err)
	}
	e := startExec(t, newFakeVault(t), dir, `trap 'says "stop $HYVVE_ETAG"; exit' TERM
		says "start $HYVVE_ETAG"
		if [ $HYVVE_ETAG != etag-2-0 ]; then echo $HYVVE_ETAG >"$DIR/etag"; fi
		rests`, "--config="+config)
	e.await("loaded", loaded("etag-1-0"))
	e.fake.change(func() { e.fake.version = 2 }) // it never becomes healthy with that
	e.await("the reason", unhealthy("the next process is not healthy, and the one before continues"))
	e.fake.change(func() { e.fake.version = 3 })
	e.await("loaded", loaded("etag-3-0"))
	said := e.said()
	first, third := slices.Index(said, "stop etag-1-0"), slices.Index(said, "start etag-3-0")
	if first < 0 || third < 0 || first < third || !slices.Contains(said, "stop etag-2-0") {
		t.Errorf("%q", said)
	}
}
