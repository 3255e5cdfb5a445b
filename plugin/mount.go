// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Texts of the engine name its paths below hyvve/, where it is mounted by default. This file puts the mount of the request in
// the place of that, in all that leaves the plugin: a command that is pasted must not act on another engine.

const defaultMount = "hyvve"

// mountedText replaces the default mount in texts.
type mountedText struct {
	paths *regexp.Regexp // of the engine, below the default mount
	mount string
}

// firstWords matches what the patterns of paths begin with.
var firstWords = regexp.MustCompile(`^[a-z]+`)

// enginePaths matches a path of the engine below its default mount, and what is before it.
func enginePaths(paths []*framework.Path) *regexp.Regexp {
	words := map[string]bool{}
	for _, p := range paths {
		words[firstWords.FindString(p.Pattern)] = true
	}
	return regexp.MustCompile(`(^|[^\w/.-])` + defaultMount + `/(` + strings.Join(slices.Sorted(maps.Keys(words)), "|") + `)\b`)
}

// of returns a text with the mount of the request.
func (m mountedText) of(text string) string {
	if m.mount == defaultMount || !strings.Contains(text, defaultMount+"/") {
		return text
	}
	return m.paths.ReplaceAllString(text, "${1}"+strings.ReplaceAll(m.mount, "$", "$$")+"/${2}")
}

// value returns a value of an answer's data with the mount of the request. What is replaced is copied.
func (m mountedText) value(value any) any {
	switch v := value.(type) {
	case string:
		return m.of(v)
	case []string:
		all := slices.Clone(v)
		for n := range all {
			all[n] = m.of(all[n])
		}
		return all
	case map[string]string:
		all := maps.Clone(v)
		for name := range all {
			all[name] = m.of(all[name])
		}
		return all
	case map[string]any:
		return m.data(v)
	case []map[string]any:
		all := slices.Clone(v)
		for n := range all {
			all[n] = m.data(all[n])
		}
		return all
	}
	return value
}

func (m mountedText) data(data map[string]any) map[string]any {
	all := maps.Clone(data)
	for name := range all {
		if name != evidence {
			all[name] = m.value(all[name])
		}
	}
	return all
}

// evidence is the field of a receipt whose digest is in the journal: its text stays as it is stored.
const evidence = "evidence_json"

// mounted returns an answer and an error with the mount of the request in their texts. Values of keys, and what the journal has
// hashed, stay as they are.
func (b *backend) mounted(req *logical.Request, resp *logical.Response, err error) (*logical.Response, error) {
	m := mountedText{b.paths, strings.TrimSuffix(req.MountPoint, "/")}
	if m.mount == "" || m.mount == defaultMount {
		return resp, err
	}
	if resp != nil {
		first, _, _ := strings.Cut(req.Path, "/")
		if resp.IsError() || first != "creds" && first != "journal" || req.Operation == logical.HelpOperation {
			resp.Data = m.data(resp.Data)
		}
		for n := range resp.Warnings {
			resp.Warnings[n] = m.of(resp.Warnings[n])
		}
	}
	if err == nil || m.of(err.Error()) == err.Error() {
		return resp, err
	}
	if coded := logical.HTTPCodedError(nil); errors.As(err, &coded) {
		return resp, logical.CodedError(coded.Code(), m.of(err.Error()))
	}
	return resp, mountedError{err, m.of(err.Error())}
}

// mountedError is an error with another text.
type mountedError struct {
	error
	text string
}

func (e mountedError) Error() string { return e.text }

func (e mountedError) Unwrap() error { return e.error }
