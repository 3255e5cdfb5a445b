// SPDX-License-Identifier: Apache-2.0

// Package external is how the sidecar deals with what it does not control: it runs the operator's programs, sends requests to the
// workload, presents credentials from files, and quotes the responses in errors with their secrets masked.
package external

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
)

// maxCredential is how many bytes a credential may have: what the sidecar presents to Vault, to databases and to workloads. It is
// read from its file at each use, since it may change.
const maxCredential = 64 << 10

// ForeignUser reports whether a user is neither root nor the sidecar's.
func ForeignUser(uid uint32) bool { return uid != 0 && int(uid) != os.Geteuid() }

// CheckSecret refuses a file that others than its group can read, or that others than its owner can change.
func CheckSecret(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return fmt.Errorf("%s has mode %04o, which lets every user at it; make it 0600, or 0640 with a group (of a Kubernetes Secret: defaultMode: 0440)", path, mode)
	}
	return CheckOwned(path, info)
}

// CheckOwned refuses what is no regular file, and one that others than root and we can change: who writes it decides what the
// sidecar does. Root's group may, as in OpenShift, where all users of a container have it.
func CheckOwned(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", path)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case mode&0o002 != 0 || mode&0o020 != 0 && (!ok || stat.Gid != 0):
		return fmt.Errorf("%s has mode %04o, so that others than its owner can change it; chmod go-w it", path, mode)
	case ok && ForeignUser(stat.Uid):
		return fmt.Errorf("%s belongs to user %d, who could change it; chown it to root, or to the sidecar's user (%d)", path, stat.Uid, os.Geteuid())
	}
	return nil
}

// ReadFile reads a file that check accepts, of at most limit bytes. It does not wait for the writer of a pipe.
func ReadFile(path string, limit int, check func(path string, info fs.FileInfo) error) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names it
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err == nil {
		err = check(path, info)
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(data) > limit {
		err = fmt.Errorf("%s holds more than %d bytes; is it the right file?", path, limit)
	}
	return data, err
}

// ReadCredentialFile reads a secret file that [CheckSecret] accepts, of at most 64 KiB.
func ReadCredentialFile(path string) ([]byte, error) {
	return ReadFile(path, maxCredential, CheckSecret)
}

// ReadCredential returns the one line that a file holds. No error contains it.
func ReadCredential(path string) (string, error) {
	data, err := ReadCredentialFile(path)
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(string(data), "\r\n")
	switch {
	case text == "":
		err = errors.New("is empty")
	case strings.ContainsFunc(text, unicode.IsControl):
		err = errors.New("holds more than one line, or control characters")
	}
	if err != nil {
		return "", fmt.Errorf("%s %w; write the credential into it, in one line", path, err)
	}
	return text, nil
}

// ReadBasic returns the user and the password in a file that holds both as "user:password".
func ReadBasic(path string) (user, password string, err error) {
	text, err := ReadCredential(path)
	if err != nil {
		return "", "", err
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok || user == "" || password == "" {
		return "", "", fmt.Errorf("%s does not hold user:password", path)
	}
	return user, password, nil
}

// Program is a program of the operator's, run without a shell. It makes a workload reload, for instance.
type Program struct {
	Args    []string
	Env     []string // besides the sidecar's own
	Timeout time.Duration
}

// Run runs the program to its end and returns the end of its output. After Timeout, and after a
// program has failed, it kills the program's process group. Processes that a successful program leaves behind keep running, but
// their output is closed a second later.
func (p Program) Run(ctx context.Context) (Quote, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Args[0], p.Args[1:]...) //nolint:gosec // the operator's
	if len(p.Env) > 0 {
		cmd.Env = append(os.Environ(), p.Env...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		// It was not waited for yet, so that its number is still that of its group.
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	// A child of the program that keeps its output open must not keep us waiting.
	cmd.WaitDelay = time.Second
	output := &tail{}
	cmd.Stdout, cmd.Stderr = output, output
	err := cmd.Run()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) && cmd.Process != nil {
		// While the group has a process, its number stands for no other one. Without any, there is nothing to kill.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		err = nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("not done after %s", duration.Text(p.Timeout))
	case ctx.Err() != nil:
		err = ctx.Err()
	}
	return Quote{Kept: output.kept, Part: output.part}, err
}

// tail keeps the end of what is written to it.
type tail struct {
	kept []byte
	part bool
}

const tailSize = 64 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if len(t.kept) > 2*tailSize {
		t.kept, t.part = append([]byte(nil), t.kept[len(t.kept)-tailSize:]...), true
	}
	return len(p), nil
}

// maxQuote is how many bytes of a quote are shown.
const maxQuote = 400

// withheld stands for a text of which nothing can be shown.
const withheld = "(not shown: most of it is secret)"

// Quote is what a program or a server has said, so that an error can quote it. Perhaps only a part was kept.
type Quote struct {
	Kept []byte
	Part bool // more was said, and the text is cut where the kept part begins (End) or ends (Start)
}

// End returns the end of the text with its secrets masked; mask may be nil.
func (q Quote) End(mask func(string) string) string {
	text, ok := q.masked(mask)
	if ok && len(text) > maxQuote {
		text = "…" + strings.ToValidUTF8(text[len(text)-maxQuote:], "")
	}
	return text
}

// Start returns the start of the text with its secrets masked; mask may be nil.
func (q Quote) Start(mask func(string) string) string {
	text, ok := q.masked(mask)
	if ok && len(text) > maxQuote {
		text = strings.ToValidUTF8(text[:maxQuote], "") + "…"
	}
	return text
}

// masked masks before anything is cut, perhaps through a value. Where only a part was kept, a piece of a value may stand
// at its edge; if masking leaves so little that the edge would be shown, nothing is.
func (q Quote) masked(mask func(string) string) (text string, ok bool) {
	text = string(q.Kept)
	if mask != nil {
		text = mask(text)
	}
	if q.Part && len(text) <= maxQuote {
		return withheld, false
	}
	return strings.TrimSpace(text), true
}

// StatusText returns a response's status in words of our own: a server's may quote what it was sent.
func StatusText(code int) string {
	return strings.TrimSpace(strconv.Itoa(code) + " " + http.StatusText(code))
}

// client asks the workload and nothing in between: it uses no proxy, follows no redirect, and opens a new connection each time,
// since a kept one may lead to a process that is being replaced.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Do sends a request straight to the workload. The caller closes the body of the response.
func Do(req *http.Request) (*http.Response, error) {
	resp, err := client.Do(req) //nolint:gosec // the operator names the URL
	return resp, Lasting(err)
}

// source is the local address in the text of a network error, as in "read tcp 127.0.0.1:41110->127.0.0.1:8080: …".
var source = regexp.MustCompile(`\S+:\d+->`)

// lasting is a network error without the local address.
type lasting struct{ error }

func (l lasting) Error() string { return source.ReplaceAllString(l.error.Error(), "") }

// Unwrap returns the error as it was.
func (l lasting) Unwrap() error { return l.error }

// Lasting returns a network error without the local address, whose port is another one each time: an error that is the same as
// before is not news.
func Lasting(err error) error {
	if err == nil {
		return nil
	}
	return lasting{err}
}
