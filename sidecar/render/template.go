// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/variables"
)

// maxText bounds what a template may write: one that runs forever must not fill memory.
const maxText = 1 << 20

// TextTemplate makes a file of a bundle, by Go's text/template. Its functions are those of functions, and Go's own.
type TextTemplate struct {
	name   string
	parsed *template.Template
	keys   []string // whose values it uses
}

// Keys are those whose values it uses.
func (t *TextTemplate) Keys() []string { return t.keys }

// ofKey are the functions that take a key's name. It must stand there as it is, so that a mistake shows when the
// template is read, and so that no error can hold a value.
var ofKey = []string{"value", "previous", "accepts", "version", "has"}

// NewTemplate reads a template. Its name, which is best a file's, begins errors, with the line. The keys are those that
// it may use; none: all.
func NewTemplate(name, text string, keys []string) (*TextTemplate, error) {
	parsed, err := template.New(name).Option("missingkey=error").Funcs(functions(variables.Set{}, client.Bundle{})).Parse(text)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "template: "))
	}
	t := &TextTemplate{name: name, parsed: parsed}
	var errs []error
	for _, part := range parsed.Templates() {
		check := func(n parse.Node, words []parse.Node) {
			names, err := checkWords(words, variables.Choice{Keys: keys})
			if err != nil {
				at, _ := part.ErrorContext(n)
				errs = append(errs, fmt.Errorf("%s: %w", at, err))
			}
			t.keys = append(t.keys, names...)
		}
		if part.Tree != nil {
			eachCommand(part.Root, check)
		}
	}
	return t, errors.Join(errs...)
}

// checkWords looks at a function and its arguments, and returns the names of keys among these.
func checkWords(words []parse.Node, choice variables.Choice) (names []string, err error) {
	for n, word := range words {
		function, ok := word.(*parse.IdentifierNode)
		if !ok || !slices.Contains(ofKey, function.Ident) {
			continue
		}
		if n > 0 || len(words) != 2 || words[1].Type() != parse.NodeString {
			return nil, fmt.Errorf("%s takes the name of one key, in quotes, such as (%s \"METRICS_API_KEY\")", function.Ident, function.Ident)
		}
		name, _ := words[1].(*parse.StringNode)
		if err := key.ValidateEnv(name.Text); err != nil {
			return nil, fmt.Errorf("%s: %w", function.Ident, err)
		}
		if !choice.Wants(name.Text) {
			return nil, fmt.Errorf("%s: %s is not among keys of the render block; add it there", function.Ident, name.Text)
		}
		names = append(names, name.Text)
	}
	return names, nil
}

// eachCommand goes through all that a part of a template does.
func eachCommand(n parse.Node, do func(n parse.Node, words []parse.Node)) {
	branch := func(b *parse.BranchNode) {
		eachCommand(b.Pipe, do)
		eachCommand(b.List, do)
		if b.ElseList != nil {
			eachCommand(b.ElseList, do)
		}
	}
	switch n := n.(type) {
	case *parse.ListNode:
		for _, part := range n.Nodes {
			eachCommand(part, do)
		}
	case *parse.ActionNode:
		eachCommand(n.Pipe, do)
	case *parse.IfNode:
		branch(&n.BranchNode)
	case *parse.RangeNode:
		branch(&n.BranchNode)
	case *parse.WithNode:
		branch(&n.BranchNode)
	case *parse.TemplateNode:
		if n.Pipe != nil {
			eachCommand(n.Pipe, do)
		}
	case *parse.PipeNode:
		for _, c := range n.Cmds {
			do(c, c.Args)
			for _, word := range c.Args {
				eachCommand(word, do)
			}
		}
	case *parse.ChainNode:
		eachCommand(n.Node, do)
	}
}

// lack is what a template asks for and cannot have. It holds no value.
type lack struct{ text string }

func (l lack) Error() string { return l.text }

// functions are those that a template has besides Go's own.
func functions(set variables.Set, b client.Bundle) template.FuncMap {
	known := func(name string) (string, error) {
		v, ok := set.Values[name]
		if !ok {
			names := slices.Sorted(maps.Keys(set.Values))
			return "", lack{fmt.Sprintf("the bundle has no key %s%s (it has %s)", name, usage.DidYouMean(name, names), strings.Join(names, ", "))}
		}
		return v, nil
	}
	accepted := func(name string) ([]string, error) {
		if _, err := known(name); err != nil {
			return nil, err
		}
		if len(b.Accepts[name]) == 0 {
			return nil, lack{name + " is not verified by this workload: it has no accepted values; use value"}
		}
		return variables.Reveal(b.Accepts[name]), nil
	}
	return template.FuncMap{
		"value":   known,
		"accepts": accepted,
		"previous": func(name string) (string, error) {
			list, err := accepted(name)
			if len(list) < 2 {
				return "", err
			}
			return list[1], nil
		},
		"version": func(name string) (int, error) {
			_, err := known(name)
			n, ok := b.Versions[name]
			if list := b.AcceptVersions[name]; !ok && len(list) > 0 {
				n = list[0]
			}
			return n, err
		},
		"has": func(name string) bool {
			_, ok := set.Values[name]
			return ok
		},
		"etag":   func() string { return b.Etag },
		"json":   variables.JSON,
		"base64": func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) },
		"sh":     func(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" },
		"join":   func(list []string, between string) string { return strings.Join(list, between) },
	}
}

// execute returns the text for a bundle.
func (t *TextTemplate) execute(set variables.Set, b client.Bundle) ([]byte, error) {
	parsed, err := t.parsed.Clone()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.name, err)
	}
	out := &limited{}
	if err := parsed.Funcs(functions(set, b)).Execute(out, nil); err != nil {
		return nil, t.reason(err)
	}
	return out.Bytes(), nil
}

var (
	place = regexp.MustCompile(`^:\d+(:\d+)?`)
	word  = regexp.MustCompile(` at (<.*?>): `)
	// These say what is wrong with a template without what it was given. What eq says of lists is their content.
	harmless = regexp.MustCompile(`(wrong number of args for \w+: .*|wrong type for value; expected .*|can't evaluate field \w+ in type \w+|error calling (index|slice|len|lt|le|gt|ge): .*|error calling (eq|ne): incompatible types for comparison: .*)$`)
)

// reason is an error of a template with file and line. What text/template says may quote what it was working on, which
// may be a value: only what cannot is passed on.
func (t *TextTemplate) reason(err error) error {
	text := strings.TrimPrefix(err.Error(), "template: "+t.name)
	at := t.name + place.FindString(text)
	if of := (lack{}); errors.As(err, &of) {
		return fmt.Errorf("%s: %w", at, of)
	}
	where := ""
	if found := word.FindStringSubmatch(text); found != nil {
		where = " " + found[1]
	}
	why := harmless.FindString(text)
	if why == "" {
		why = "what it is given is not what it takes (docs/templates.md lists the functions)"
	}
	return fmt.Errorf("%s:%s %s", at, where, why)
}

// limited is a buffer that takes no more than maxText.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxText {
		return 0, lack{fmt.Sprintf("the template writes more than %d bytes; does it end?", maxText)}
	}
	return l.Buffer.Write(p)
}
