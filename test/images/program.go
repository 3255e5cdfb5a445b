// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
)

var machines = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}

func architectures() []string { return slices.Sorted(maps.Values(machines)) }

// A program is a static Linux binary for one architecture.
type program struct {
	file, name, arch string
	content          []byte
	sum              string            // SHA-256, in hex
	info             *debug.BuildInfo  // nil if it was not built by Go
	settings         map[string]string // of info
}

func readProgram(file string) (program, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return program{}, err
	}
	sum := sha256.Sum256(content)
	p := program{file: file, name: filepath.Base(file), content: content, sum: hex.EncodeToString(sum[:]), settings: map[string]string{}}
	if p.arch, err = architecture(content); err != nil {
		return program{}, fmt.Errorf("%s: %w", file, err)
	}
	if info, err := buildinfo.Read(bytes.NewReader(content)); err == nil {
		p.info = info
		for _, s := range info.Settings {
			p.settings[s.Key] = s.Value
		}
	}
	return p, nil
}

// architecture returns the architecture of a binary that needs nothing but the kernel.
func architecture(content []byte) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return "", fmt.Errorf("is no Linux binary (%w); build it with GOOS=linux", err)
	}
	arch, ok := machines[f.Machine]
	if !ok || f.Class != elf.ELFCLASS64 {
		return "", fmt.Errorf("is for %s; images are made for amd64 and arm64", f.Machine)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return "", fmt.Errorf("is an ELF file of type %s, which cannot be run", f.Type)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errors.New("is dynamically linked, and an image from scratch has no loader and no libraries; build it with CGO_ENABLED=0")
		}
	}
	return arch, nil
}

// created is the time that the image claims: SOURCE_DATE_EPOCH, the commit's, or the beginning of 1970, but never now.
func (p program) created() (time.Time, error) {
	if text := os.Getenv("SOURCE_DATE_EPOCH"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds < 0 {
			return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %q is not a number of seconds since 1970", text)
		}
		return time.Unix(seconds, 0).UTC(), nil
	}
	if at, err := time.Parse(time.RFC3339, p.settings["vcs.time"]); err == nil {
		return at.UTC(), nil
	}
	return time.Unix(0, 0).UTC(), nil
}
