// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// The blocks of [File] are the one table of options. The tags of a field say all that is known of an option beforehand:
//
//	hcl         its name, and whether it may be left out
//	doc         its description
//	note        what holds in the file only, and not for the flag and the annotation
//	default     the value without it, or a description of that value
//	type        its type, where the type of the field does not say it
//	values      the values that it may have
//	of          the methods or formats that have it, where not all have it
//	excludes    the options that it excludes
//	required    yes, or when; where of says which methods have it, it holds for them
//	flag        the flag that sets it; an environment variable goes with each flag
//	annotation  the annotation of pods that sets it
//
// HCL is decoded by them, and the checks use of and default. Flags and their help come from them, and so do annotations, the
// configuration of pods, docs/configuration.md and docs/annotations.md.

// Option is one option of a block.
type Option struct {
	Block                                                              string // its path, as in [Block]
	Name, Doc, Note, Default, Type, Values, Required, Flag, Annotation string
	Of, Excludes                                                       []string

	field reflect.StructField
}

// Block is a block of the file, or the file itself.
type Block struct {
	Path    string // its name after those of the blocks around it, as "vault: auth"; empty: the file
	Label   string // how its label is called, as "METHOD"; empty: it has none
	Options []Option
}

// Blocks returns the file and all blocks in it, in their order.
var Blocks = sync.OnceValue(func() []Block { return blocks(Block{}, reflect.TypeFor[File]()) })

func blocks(outer Block, of reflect.Type) []Block {
	all := []Block{{}}
	for n := range of.NumField() {
		f := of.Field(n)
		name, kind, _ := strings.Cut(f.Tag.Get("hcl"), ",")
		switch kind {
		case "label":
			outer.Label = strings.ToUpper(name)
		case "block":
			inner := f.Type
			if inner.Kind() != reflect.Struct {
				inner = inner.Elem()
			}
			all = append(all, blocks(Block{Path: strings.TrimPrefix(outer.Path+": "+name, ": ")}, inner)...)
		}
	}
	outer.Options = options(outer.Path, of)
	all[0] = outer
	return all
}

// options returns those of a block, in their order.
func options(path string, block reflect.Type) (all []Option) {
	for n := range block.NumField() {
		f := block.Field(n)
		name, kind, _ := strings.Cut(f.Tag.Get("hcl"), ",")
		if name == "" || kind == "block" || kind == "label" {
			continue
		}
		o := Option{
			Block: path, Name: name, Doc: f.Tag.Get("doc"), Note: f.Tag.Get("note"), Default: f.Tag.Get("default"), Type: f.Tag.Get("type"), Values: f.Tag.Get("values"),
			Required: f.Tag.Get("required"), Flag: f.Tag.Get("flag"), Annotation: f.Tag.Get("annotation"), field: f,
		}
		if kind == "" {
			o.Required = "yes"
		}
		o.Of, o.Excludes = listed(f.Tag.Get("of")), listed(f.Tag.Get("excludes"))
		all = append(all, o)
	}
	return all
}

func listed(tag string) []string {
	if tag == "" {
		return nil
	}
	return strings.Split(tag, ", ")
}

// option returns the one of a block that has a name.
func option(block any, name string) Option {
	for _, o := range options("", reflect.TypeOf(block)) {
		if o.Name == name {
			return o
		}
	}
	panic(fmt.Sprintf("%T has no option %s", block, name))
}

// value is that of the option in a block, or in the block that a pointer points to.
func (o Option) value(block any) reflect.Value {
	return reflect.Indirect(reflect.ValueOf(block)).FieldByIndex(o.field.Index)
}

// IsSet reports whether a block says something else than the zero value.
func (o Option) IsSet(block any) bool { return !o.value(block).IsZero() }

// Conflicts reports whether a block has an option that this one excludes.
func (o Option) Conflicts(block any) bool {
	of := reflect.Indirect(reflect.ValueOf(block)).Interface()
	return slices.ContainsFunc(o.Excludes, func(name string) bool { return option(of, name).IsSet(of) })
}

// Clear removes the options of the block that a pointer points to for which drop is true.
func Clear(block any, drop func(Option) bool) {
	for _, o := range options("", reflect.TypeOf(block).Elem()) {
		if drop(o) {
			o.value(block).SetZero()
		}
	}
}

// IsList reports whether the option has several values.
func (o Option) IsList() bool {
	kind := o.field.Type.Kind()
	return kind == reflect.Slice || kind == reflect.Map
}

// IsBool reports whether the option is true or false.
func (o Option) IsBool() bool { return o.field.Type.Kind() == reflect.Bool }

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
	return duration(prefix+name, option(block, name).value(block).String(), standard(block, name))
}

// At returns a pointer to the block that has a path, which is no list of blocks. It makes the block if it is missing.
func (f *File) At(path string) any {
	at := reflect.ValueOf(f).Elem()
	for name := range strings.SplitSeq(path, ": ") {
		for n := range at.NumField() {
			if at.Type().Field(n).Tag.Get("hcl") != name+",block" {
				continue
			}
			if at = at.Field(n); at.Kind() == reflect.Pointer {
				if at.IsNil() {
					at.Set(reflect.New(at.Type().Elem()))
				}
				at = at.Elem()
			}
			break
		}
	}
	return at.Addr().Interface()
}
