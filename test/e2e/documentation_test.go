// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// Marks of blocks in the pages, in a line of their own before the block; CONTRIBUTING.md describes them.
const (
	markNotRun = "<!-- not run: "
	markFresh  = "<!-- on a fresh Vault -->"
)

// block is a block of code of a page.
type block struct {
	page     string
	line     int    // of the first
	language string // of a fence; "": indented
	fenced   bool
	mark     string // the comment before it
	lines    []string
}

// at is a line of the block, as errors name it.
func (b block) at(n int) string { return fmt.Sprintf("%s:%d", b.page, b.line+n) }

// program begins a command, after variables for it and what it reads.
var program = regexp.MustCompile(`^([A-Z_]+=\S+ +)*(printf '%s' "\$[A-Z_]+" \| )?(vault|hyvve|hyvve-sidecar|hyvve-injector|make|kubectl|helm|jq|curl)( |$)`)

// commands reports whether the block has commands for a shell. A fence without a language shows an output, or a drawing.
func (b block) commands() bool {
	if b.fenced && b.language != "sh" && b.language != "bash" {
		return false
	}
	return slices.ContainsFunc(b.lines, func(line string) bool { return program.MatchString(line) })
}

// documents returns the pages with commands. docs/api.md is generated; the commands of docs/kubernetes.md run in pods.
func documents(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob(filepath.Join(bed.Repo(), "docs", "*.md"))
	if err != nil || len(pages) < 20 {
		t.Fatal(len(pages), err)
	}
	names := []string{"README.md"}
	for _, page := range pages {
		if name := filepath.Base(page); name != "api.md" && name != "kubernetes.md" {
			names = append(names, filepath.Join("docs", name))
		}
	}
	return names
}

// blocks are the blocks of code of a page.
func blocks(t *testing.T, page string) (all []block) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(bed.Repo(), page))
	if err != nil {
		t.Fatal(err)
	}
	var now *block
	mark, fence := "", false
	end := func() {
		if now != nil {
			all = append(all, *now)
			mark = ""
		}
		now = nil
	}
	for n, line := range strings.Split(string(data), "\n") {
		bare := strings.TrimSpace(line)
		language, fences := strings.CutPrefix(bare, "```")
		switch {
		case fences && fence:
			fence = false
			end()
		case fences:
			fence = true
			now = &block{page: page, line: n + 2, language: language, fenced: true, mark: mark}
		case fence:
			now.lines = append(now.lines, line)
		case strings.HasPrefix(line, "    ") && bare != "":
			if now == nil {
				now = &block{page: page, line: n + 1, mark: mark}
			}
			now.lines = append(now.lines, bare)
		default:
			end()
		}
		if !fence && now == nil && bare != "" {
			mark = bare
		}
	}
	return all
}

// typist types what a page says.
type typist struct {
	t     *testing.T
	dir   string // where he types
	env   []string
	stdin string
	fill  func(command string) string // puts what is there in the place of what a page's names stand for
}

// newTypist makes one with the programs of this build.
func newTypist(t *testing.T, server bed.Server, env ...string) *typist {
	t.Helper()
	binary, err := bed.VaultBinary()
	if err != nil {
		t.Fatal(err)
	}
	path := strings.Join([]string{filepath.Dir(binary), bed.Tool("bin"), os.Getenv("PATH")}, ":")
	dir := t.TempDir()
	return &typist{t: t, dir: dir, stdin: "something that was found", env: append([]string{
		"PATH=" + path, "HOME=" + dir, "VAULT_ADDR=" + server.Addr, "VAULT_TOKEN=" + server.Token,
	}, env...)}
}

// types runs a command, which has to succeed and to say what people can read.
func (y *typist) types(at, command string) string {
	y.t.Helper()
	ctx, cancel := context.WithTimeout(y.t.Context(), 90*time.Second)
	defer cancel()
	command = y.fill(command)
	cmd := exec.CommandContext(ctx, "bash", "-uo", "pipefail", "-c", command)
	cmd.Dir, cmd.Env, cmd.Stdin = y.dir, y.env, strings.NewReader(y.stdin)
	began := time.Now()
	said, err := cmd.CombinedOutput()
	if took := time.Since(began); took > 5*time.Second {
		y.t.Logf("%s: %s: took %s", at, command, took.Round(time.Second))
	}
	if err != nil {
		y.t.Errorf("%s: %s: %v\n%s", at, command, err, said)
	}
	for line := range strings.Lines(string(said)) {
		if strings.Contains(line, "map[") {
			y.t.Errorf("%s: %s: nobody can read: %s", at, command, line)
		}
	}
	return string(said)
}

// typesAll runs the commands of a block, and before with each of them first.
func (y *typist) typesAll(b block, before func(command string)) (said string) {
	y.t.Helper()
	if b.fenced { // a script
		return y.types(b.at(0), strings.Join(b.lines, "\n"))
	}
	for n, line := range b.lines {
		if !program.MatchString(line) {
			y.t.Errorf("%s: %q is not a command; mark the block, or make a block of its own of what is none", b.at(n), line)
			continue
		}
		before(line)
		said = y.types(b.at(n), line)
	}
	return said
}

// Each command that a page shows is run, or its block says why not.
func TestDocumentedCommandsAreRunOrMarked(t *testing.T) {
	commands, marked := 0, 0
	for _, page := range documents(t) {
		for _, b := range blocks(t, page) {
			reason, notRun := strings.CutPrefix(b.mark, markNotRun)
			switch {
			case !b.commands() && (notRun || b.mark == markFresh):
				t.Errorf("%s is marked, and has no commands", b.at(0))
			case notRun && len(reason) < len("it needs … -->"):
				t.Errorf("%s is not run, without a reason", b.at(0))
			case notRun:
				marked++
			case b.commands():
				commands += len(b.lines)
			}
		}
	}
	if commands < 50 || marked > 20 {
		t.Errorf("%d commands are run, and %d blocks are not", commands, marked)
	}
}

// What README.md, docs/postgres.md and docs/redis.md say of the set-up works on a Vault, a PostgreSQL and a Redis that know nothing of it.
func TestDocumentedSetUp(t *testing.T) {
	w := newFresh(t)
	for _, page := range documents(t) {
		first := true
		for _, b := range blocks(t, page) {
			if b.mark != markFresh {
				continue
			}
			if first {
				w.reset(page)
			}
			first = false
			w.typesAll(b, func(string) {})
			if said := w.types("at the end", "vault list hyvve/keys && vault read hyvve/status || true"); b.fenced && strings.Contains(said, "no version") { // which the page has imported
				t.Errorf("%s: %s", b.at(0), said)
			}
		}
	}
	if w.resets < 4 {
		t.Errorf("%d pages have a set-up", w.resets)
	}
}

// All other commands work on a platform that runs: its keys are rotated, undeleted, identified, and its rows re-encrypted.
func TestDocumentedCommands(t *testing.T) {
	w := newDocumented(t)
	for _, page := range documents(t) {
		var last string // what the last command said
		for _, b := range blocks(t, page) {
			switch {
			case b.fenced && b.language == "" && strings.HasPrefix(last, "workload "):
				w.sameLabels(b, last)
			case !b.commands() || strings.HasPrefix(b.mark, markNotRun) || b.mark == markFresh:
				last = ""
			default:
				last = w.typist.typesAll(b, w.prepare)
				w.restore()
			}
		}
		for _, command := range reads(t, page) {
			w.typist.types(page, command)
		}
	}
}

// inText is a command that reads, in the text of a page.
var inText = regexp.MustCompile("`(vault (?:read|list) hyvve/[^`]*)`")

// reads are the commands in the text of a page that change nothing, without those in which other names stand for something.
func reads(t *testing.T, page string) (all []string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(bed.Repo(), page))
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range inText.FindAllStringSubmatch(strings.ReplaceAll(string(data), "\n", " "), -1) {
		if !slices.Contains(all, found[1]) && !strings.ContainsAny(found[1], "…<[") {
			all = append(all, found[1])
		}
	}
	return all
}
