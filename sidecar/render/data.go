// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/variables"
)

// Data is what a bundle becomes where it is not written into files: a text by name.
type Data struct {
	Choice variables.Choice
	Fields map[string]Field // empty: each name of the choice by itself
}

// Field is one text: that of a key, or of a template.
type Field struct {
	Key      string
	Template *TextTemplate // nil: of the key
}

// Of makes it of a bundle. No error holds a value.
func (d Data) Of(b client.Bundle) (map[string][]byte, error) {
	set, err := d.Choice.Of(b)
	if err != nil {
		return nil, err
	}
	texts, err := set.Text()
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{}
	if len(d.Fields) == 0 {
		for name, text := range texts {
			data[name] = []byte(text)
		}
		return data, nil
	}
	for _, name := range slices.Sorted(maps.Keys(d.Fields)) {
		f := d.Fields[name]
		if f.Template != nil {
			if data[name], err = f.Template.execute(set, b); err != nil {
				return nil, err
			}
			continue
		}
		text, ok := texts[f.Key]
		if !ok {
			names := slices.Sorted(maps.Keys(texts))
			return nil, fmt.Errorf("data: %s: the bundle has no key %s%s (it has %s)", name, f.Key, usage.DidYouMean(f.Key, names), strings.Join(names, ", "))
		}
		data[name] = []byte(text)
	}
	return data, nil
}
