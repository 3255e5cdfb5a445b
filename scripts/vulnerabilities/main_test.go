// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// scanned looks in testdata/app, which calls one vulnerable function of a database of our own, and imports another.
func scanned(t *testing.T, database, list string) (status int, said string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "allowed.txt")
	if err := os.WriteFile(path, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	status = run(t.Context(), []string{"-C", "testdata/app", "-db", database, "-allowed", path}, &out, &out)
	return status, out.String()
}

func TestAllowed(t *testing.T) {
	dir, err := filepath.Abs("testdata/db")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		list   string
		status int
		want   string
	}{
		"unknown":      {"", 1, "GO-2026-0001: Made-up: a title is too long\n    example.com/app calls strings.ToTitle of stdlib"},
		"another":      {"GO-2026-0003 2026-11-02 not ours\n", 1, "GO-2026-0003 is not found any more"},
		"allowed":      {"# why\n\nGO-2026-0001 2026-11-02 our titles are short\n", 0, "GO-2026-0001 is allowed since 2026-11-02: our titles are short"},
		"no reason":    {"GO-2026-0001 2026-11-02\n", 2, "is not ID DATE REASON"},
		"no date":      {"GO-2026-0001 2026-13-02 reason\n", 2, "is no date"},
		"twice":        {"GO-2026-0001 2026-11-02 a\nGO-2026-0001 2026-11-02 b\n", 2, "stands there twice"},
		"imported too": {"GO-2026-0001 2026-11-02 our titles are short\nGO-2026-0002 2026-11-02 b\n", 0, "GO-2026-0002 is not found any more"},
	} {
		t.Run(name, func(t *testing.T) {
			status, said := scanned(t, "file://"+dir, c.list)
			if status != c.status || !strings.Contains(said, c.want) {
				t.Errorf("status %d, want %d; it does not say %q:\n%s", status, c.status, c.want, said)
			}
		})
	}
}

// A database that cannot be reached fails nothing, and is not passed over in silence.
func TestNotReached(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	status, said := scanned(t, "http://"+address, "GO-2026-0001 2026-11-02 our titles are short\n")
	if status != 0 || !strings.Contains(said, "NOT LOOKED FOR") || !strings.Contains(said, "1 are allowed") {
		t.Errorf("status %d:\n%s", status, said)
	}
	if status, said := scanned(t, "file:///nowhere/at/all", ""); status != 2 {
		t.Errorf("a database that is none: status %d:\n%s", status, said)
	}
}

// What is checked in can be read.
func TestListOfOurs(t *testing.T) {
	if _, err := readAllowed("allowed.txt"); err != nil {
		t.Error(err)
	}
}
