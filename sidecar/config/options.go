// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// The blocks of [File] are the one table of options. The tags of a field say all that is known of an option beforehand:
//
//	hcl       its name, and whether it may be left out
//	doc       its description
//	default   the value without it, or a description of that value
//	type      its type, where the type of the field does not say it
//	values    the values that it may have
//	of        the methods or formats that have it, where not all have it
//	required  yes, where of says which methods require it
//	flag      the flag that sets it; an environment variable goes with each flag
//
// HCL is decoded by them, the checks use of and default, and docs/configuration.md is made from them.

// Option is one option of a block.
type Option struct {
	Name, Doc, Default, Type, Values, Flag string
	Of                                     []string
	Required                               bool

	field reflect.StructField
}

// options returns those of a block, or of a pointer to one, in their order.
func options(block reflect.Type) (all []Option) {
	for n := range block.NumField() {
		f := block.Field(n)
		name, kind, _ := strings.Cut(f.Tag.Get("hcl"), ",")
		if name == "" || kind == "block" || kind == "label" {
			continue
		}
		o := Option{
			Name: name, Doc: f.Tag.Get("doc"), Default: f.Tag.Get("default"), Type: f.Tag.Get("type"), Values: f.Tag.Get("values"), Flag: f.Tag.Get("flag"),
			Required: kind == "" || f.Tag.Get("required") == "yes", field: f,
		}
		if of := f.Tag.Get("of"); of != "" {
			o.Of = strings.Split(of, ",")
		}
		all = append(all, o)
	}
	return all
}

// option returns the one of a block that has a name.
func option(block any, name string) Option {
	for _, o := range options(reflect.TypeOf(block)) {
		if o.Name == name {
			return o
		}
	}
	panic(fmt.Sprintf("%T has no option %s", block, name))
}

// standard returns the default of a duration.
func standard(block any, name string) time.Duration {
	d, err := time.ParseDuration(option(block, name).Default)
	if err != nil {
		panic(fmt.Sprintf("%T: the default of %s: %v", block, name, err))
	}
	return d
}

// setting reads a duration of a block, which an error calls by its name after prefix.
func setting(prefix string, block any, name string) (time.Duration, error) {
	text := reflect.ValueOf(block).FieldByIndex(option(block, name).field.Index).String()
	return duration(prefix+name, text, standard(block, name))
}
