// SPDX-License-Identifier: Apache-2.0

// Package render writes what a bundle holds into files that workloads read. A file is never half-written, and never
// there with a wider mode than configured: it is written beside its place, owned, and renamed.
package render

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/variables"
)

// Format is how a file holds a bundle.
type Format string

// The formats.
const (
	Dotenv Format = "dotenv" // NAME=value lines, quoted so that Node's readers, Python's, Docker Compose and a shell read back the same
	Docker Format = "docker" // NAME=value lines without quotes, for docker run --env-file
	JSON   Format = "json"   // one object of names and values
	Bundle Format = "bundle" // one object with values, accepts, versions, accept_versions and etag, for workloads that hold several versions
	Files  Format = "files"  // a directory with one file a name, without a trailing line break
	// Template is what a template of the user's makes of it.
	Template Format = "template"
)

// Formats lists them.
func Formats() []string {
	return []string{string(Dotenv), string(Docker), string(JSON), string(Bundle), string(Files), string(Template)}
}

// Target is a file, or for Files a directory, to be kept.
type Target struct {
	Format Format
	Path   string
	Mode   os.FileMode
	UID    int      // -1: as we are
	GID    int      // -1: as we are
	Keys   []string // environment names to render; empty: all
	// Accepts adds NAME_ACCEPTS for keys that the workload verifies: all values to accept, newest first. In JSON that
	// is an array, in Dotenv, Docker and Files the text of one. Bundle has it anyway.
	Accepts bool
	// Previous adds NAME_PREVIOUS: the second of them, while there is one.
	Previous bool
	Template *TextTemplate // of the format Template
	Allow    []string      // reserved names that are rendered all the same
	// MakeDirectory makes the directory of the file, where it is missing. That of Files is made anyway.
	MakeDirectory bool
	// Multiline lets Dotenv write values of several lines, for readers that read them back.
	Multiline bool
}

const tempPrefix = ".hyvve-"

func (t Target) choice() variables.Choice {
	return variables.Choice{Keys: t.Keys, Accepts: t.Accepts, Previous: t.Previous, Allow: t.Allow, Mapped: t.Format == Template}
}

// contents returns the files by name, below the directory of the target, and the names of files that are to be gone.
func (t Target) contents(b client.Bundle) (files map[string][]byte, gone []string, err error) {
	set, err := t.choice().Of(b)
	if err != nil {
		return nil, nil, fmt.Errorf("rendering %s: %w", t.Path, err)
	}
	var content []byte
	switch t.Format {
	case Files:
		files, err = separate(set)
		return files, set.Gone, err
	case Dotenv:
		content, err = dotenv(set, t.Multiline)
	case Docker:
		content, err = docker(set)
	case JSON:
		content, err = object(set)
	case Bundle:
		content, err = t.bundle(b)
	case Template:
		content, err = t.Template.execute(set, b)
	default:
		err = fmt.Errorf("render format %q is not known; use one of %s", t.Format, strings.Join(Formats(), ", "))
	}
	return map[string][]byte{filepath.Base(t.Path): content}, nil, err
}

// separate returns a file to each name, which was checked: it is a path, and could lead anywhere.
func separate(set variables.Set) (map[string][]byte, error) {
	texts, err := set.Text()
	files := map[string][]byte{}
	for name, text := range texts {
		files[name] = []byte(text)
	}
	return files, err
}

func object(set variables.Set) ([]byte, error) {
	all := map[string]any{}
	for name, v := range set.Values {
		all[name] = v
	}
	for name, list := range set.Lists {
		all[name] = list
	}
	text, err := json.MarshalIndent(all, "", "  ")
	return append(text, '\n'), err
}

func (t Target) bundle(b client.Bundle) ([]byte, error) {
	plain := b.Plain()
	unwanted := func(env string) bool { return !t.choice().Wants(env) }
	maps.DeleteFunc(plain.Values, func(env, _ string) bool { return unwanted(env) })
	maps.DeleteFunc(plain.Accepts, func(env string, _ []string) bool { return unwanted(env) })
	text, err := json.MarshalIndent(plain, "", "  ")
	return append(text, '\n'), err
}
