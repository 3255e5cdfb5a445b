// SPDX-License-Identifier: Apache-2.0

// Command vulnerabilities looks for known vulnerabilities that our code calls, with govulncheck. It fails for each that the
// file allowed.txt beside it does not name. Where the database cannot be reached, it says so and does not fail.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/vuln/scan"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit status: 0 if nothing is wrong or nobody knows, 1 for a vulnerability, 2 for anything else.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("vulnerabilities", flag.ContinueOnError)
	flags.SetOutput(stderr)
	dir := flags.String("C", ".", "`DIRECTORY` of the module")
	list := flags.String("allowed", "", "`FILE` of those that are allowed")
	database := flags.String("db", "", "`URL` of the database; govulncheck's own, or $GOVULNDB")
	if flags.Parse(args) != nil {
		return 2
	}
	permitted, err := readAllowed(*list)
	if err != nil {
		fmt.Fprintln(stderr, "vulnerabilities:", err)
		return 2
	}
	found, err := look(ctx, *dir, *database, flags.Args())
	if unreachable(err, cmp.Or(*database, os.Getenv("GOVULNDB"))) {
		fmt.Fprintf(stdout, "vulnerabilities: NOT LOOKED FOR, since the database cannot be reached (%v); %d are allowed by %s\n", err, len(permitted), *list)
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "vulnerabilities:", err)
		return 2
	}
	return judge(found, permitted, *list, stdout, stderr)
}

// judge says which findings are not allowed, and which that are allowed are not found.
func judge(found map[string]finding, permitted map[string]allowed, list string, stdout, stderr io.Writer) (status int) {
	for _, id := range slices.Sorted(maps.Keys(found)) {
		f := found[id]
		if a, ok := permitted[id]; ok {
			fmt.Fprintf(stdout, "vulnerabilities: %s is allowed since %s: %s\n", id, a.since, a.reason)
			continue
		}
		status = 1
		fmt.Fprintf(stderr, "vulnerabilities: %s\n    update it (%s), or add to %s a line: %s %s REASON\n", f, f.remedy(), list, id, time.Now().UTC().Format(time.DateOnly))
	}
	for _, id := range slices.Sorted(maps.Keys(permitted)) {
		if _, ok := found[id]; !ok {
			fmt.Fprintf(stdout, "vulnerabilities: %s is not found any more; take it out of %s\n", id, list)
		}
	}
	return status
}

// allowed is a vulnerability that somebody has looked at.
type allowed struct{ since, reason string }

var allowedForm = regexp.MustCompile(`^(GO-\d{4}-\d+) (\d{4}-\d\d-\d\d) (\S.*)$`)

// readAllowed reads lines of an id, the day on which somebody looked at it, and why it does no harm here.
func readAllowed(path string) (map[string]allowed, error) {
	all := map[string]allowed{}
	if path == "" {
		return all, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m := allowedForm.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("%s:%d: %q is not ID DATE REASON, such as: GO-2026-0001 2026-11-30 we do not parse such input", path, n, line)
		}
		if _, err := time.Parse(time.DateOnly, m[2]); err != nil {
			return nil, fmt.Errorf("%s:%d: %q is no date", path, n, m[2])
		}
		if _, twice := all[m[1]]; twice {
			return nil, fmt.Errorf("%s:%d: %s stands there twice", path, n, m[1])
		}
		all[m[1]] = allowed{m[2], m[3]}
	}
	return all, nil
}

// finding is a vulnerability that our code calls.
type finding struct {
	id, summary, module, version, fixed, symbol, from string
}

func (f finding) String() string {
	return fmt.Sprintf("%s: %s\n    %s calls %s of %s %s", f.id, f.summary, cmp.Or(f.from, "our code"), f.symbol, f.module, f.version)
}

func (f finding) remedy() string {
	switch {
	case f.fixed == "":
		return "no version is fixed yet"
	case f.module == "stdlib":
		return "Go " + strings.TrimPrefix(f.fixed, "v")
	}
	return "go get " + f.module + "@" + f.fixed
}

// message is what of govulncheck's output counts here.
type message struct {
	OSV *struct {
		ID      string `json:"id"`
		Summary string `json:"summary"`
	} `json:"osv"`
	Finding *struct {
		OSV   string `json:"osv"`
		Fixed string `json:"fixed_version"`
		Trace []struct {
			Module   string `json:"module"`
			Version  string `json:"version"`
			Package  string `json:"package"`
			Function string `json:"function"`
			Receiver string `json:"receiver"`
		} `json:"trace"`
	} `json:"finding"`
}

// look runs govulncheck, and returns what is called, by id.
func look(ctx context.Context, dir, database string, patterns []string) (map[string]finding, error) {
	args := []string{"-C", dir, "-format", "json"}
	if database != "" {
		args = append(args, "-db", database)
	}
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	probe := []string{"-mode", "query", "-format", "json"} // asks the database, and no more: loading our code takes a minute
	if database != "" {
		probe = append(probe, "-db", database)
	}
	if _, err := govulncheck(ctx, append(probe, "stdlib@go1.26.0")); err != nil {
		return nil, err
	}
	out, err := govulncheck(ctx, append(args, patterns...))
	if err != nil {
		return nil, err
	}
	return read(out)
}

func govulncheck(ctx context.Context, args []string) (io.Reader, error) {
	var out, said bytes.Buffer
	cmd := scan.Command(ctx, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &said, os.Environ()
	err := cmd.Start()
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return nil, fmt.Errorf("%w %s", err, strings.TrimSpace(said.String()))
	}
	return &out, nil
}

// read takes what is called out of govulncheck's messages. What is only imported, or required, does no harm.
func read(in io.Reader) (map[string]finding, error) {
	found, summaries := map[string]finding{}, map[string]string{}
	for d := json.NewDecoder(in); ; {
		var m message
		err := d.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("govulncheck's answer: %w", err)
		}
		if m.OSV != nil {
			summaries[m.OSV.ID] = m.OSV.Summary
		}
		if m.Finding == nil || len(m.Finding.Trace) == 0 || m.Finding.Trace[0].Function == "" {
			continue
		}
		at, last := m.Finding.Trace[0], m.Finding.Trace[len(m.Finding.Trace)-1]
		symbol := at.Package + "." + at.Function
		if at.Receiver != "" {
			symbol = at.Package + "." + at.Receiver + "." + at.Function
		}
		found[m.Finding.OSV] = finding{
			id: m.Finding.OSV, module: at.Module, version: at.Version, fixed: m.Finding.Fixed, symbol: symbol, from: last.Package,
		}
	}
	for id, f := range found {
		f.summary = summaries[id]
		found[id] = f
	}
	return found, nil
}

// unreachable reports whether an error is the network's, or of a database that does not answer. A file is always reached.
func unreachable(err error, database string) bool {
	if err == nil || strings.HasPrefix(database, "file:") {
		return false
	}
	for _, words := range []string{
		"unrecognized vulndb format", // of another server than the default one, which did not answer
		"dial tcp", "no such host", "connection refused", "connection reset", "timeout", "proxyconnect", "unexpected status", "tls: ", "EOF",
	} {
		if strings.Contains(err.Error(), words) {
			return true
		}
	}
	return false
}
