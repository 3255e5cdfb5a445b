// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"encoding/json"
	"reflect"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty/gocty"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// configuration returns the text of a file in HCL.
func configuration(f config.File) string {
	known, err := json.Marshal(f)
	if err != nil { // which no value in it can bring about
		return write(f)
	}
	text, ok := written.get(string(known))
	if !ok {
		text = write(f)
		written.set(string(known), text)
	}
	return text
}

// write writes the text that configuration returns.
func write(f config.File) string {
	file := hclwrite.NewEmptyFile()
	writeOptions(file.Body(), reflect.ValueOf(f))
	return string(file.Bytes())
}

// writeOptions writes the options of a block that are set, and the blocks in it.
func writeOptions(body *hclwrite.Body, block reflect.Value) {
	for n := range block.NumField() {
		name, kind, _ := strings.Cut(block.Type().Field(n).Tag.Get("hcl"), ",")
		field := block.Field(n)
		switch {
		case field.IsZero() || kind == "label":
		case kind != "block":
			of, err := gocty.ImpliedType(field.Interface())
			if err != nil {
				continue // no option has such a type
			}
			if value, err := gocty.ToCtyValue(field.Interface(), of); err == nil {
				body.SetAttributeValue(name, value)
			}
		case field.Kind() == reflect.Slice:
			for n := range field.Len() {
				writeBlock(body, name, field.Index(n))
			}
		default:
			writeBlock(body, name, reflect.Indirect(field))
		}
	}
}

func writeBlock(body *hclwrite.Body, name string, block reflect.Value) {
	var labels []string
	if _, kind, _ := strings.Cut(block.Type().Field(0).Tag.Get("hcl"), ","); kind == "label" {
		labels = []string{block.Field(0).String()}
	}
	writeOptions(body.AppendNewBlock(name, labels).Body(), block)
}
