// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// mostOneLine is how many names the engine takes.
const mostOneLine = 200

// oneLine is what the sidecar tells the engine of values of several lines: which keys go into something that cannot carry
// them, so that no rotation hands them over. That is a file of a format which cannot, a template whose author has not said
// that it can, a header, or the URL of a database.
func (c Config) oneLine() client.OneLine {
	var names []string
	for _, t := range c.Targets {
		switch t.Format {
		case render.JSON, render.Bundle, render.Files:
		case render.Template:
			if !t.Multiline {
				names = append(names, t.Template.Keys()...)
			}
		default:
			if t.Multiline {
				continue
			}
			if len(t.Keys) == 0 {
				return nil
			}
			names = append(names, t.Keys...)
		}
	}
	for _, d := range c.Destinations {
		for _, f := range d.Data.Fields {
			if f.Template != nil && !d.Multiline {
				names = append(names, f.Template.Keys()...)
			}
		}
	}
	for _, l := range c.Listeners {
		for _, k := range l.Keys {
			names = append(names, k.Env)
		}
	}
	for _, name := range c.gateKeys {
		names = append(names, name)
	}
	if c.Reencrypt != nil && c.Reencrypt.DatabaseURLKey != "" {
		names = append(names, c.Reencrypt.DatabaseURLKey)
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > mostOneLine {
		return nil
	}
	return client.Carries(names...)
}
