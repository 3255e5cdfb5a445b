// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"reflect"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// fill sets all that can be set in a value, so that no two options of a block are alike.
func fill(v reflect.Value, n int) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("text ${" + string(rune('a'+n)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(int64(n + 1))
	case reflect.Float64:
		v.SetFloat(float64(n) / 2)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n+1)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n+1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for n := range v.NumField() {
			fill(v.Field(n), n)
		}
	default:
		panic(v.Kind().String())
	}
}

// Each option, also one that comes later, is written as it is read.
func TestConfigurationHoldsEachOption(t *testing.T) {
	var f config.File
	fill(reflect.ValueOf(&f).Elem(), 0)
	text := write(f)
	read, err := config.Parse([]byte(text), "pod")
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !reflect.DeepEqual(read, f) {
		t.Errorf("read %+v\nwant %+v\n%s", read, f, text)
	}
}

// Each annotation that the table of options names sets its options, and nothing else.
func TestEachAnnotationSetsItsOptions(t *testing.T) {
	count := 0
	for _, b := range config.Blocks() {
		for _, o := range b.Options {
			if o.Annotation == "" {
				continue
			}
			count++
			value := "1"
			switch {
			case o.IsBool():
				value = "true"
			case o.Values != "":
				value = strings.Split(o.Values, ", ")[0]
			case o.Type == "matchers":
				value = "code=~5.., method=GET"
			case o.Type == "environment name" || o.Type == "environment names":
				value = "A"
			}
			s, blank := settings{}, settings{}
			if err := find(o.Annotation).set(&s, "", value); err != nil {
				t.Errorf("%s: %v", o.Annotation, err)
			}
			if block := s.at(b.Path); !o.IsSet(block) {
				t.Errorf("%s does not set %s of %s", o.Annotation, o.Name, b.Path)
			}
			for _, of := range config.Blocks() {
				config.Clear(s.at(of.Path), func(other config.Option) bool { return other.Annotation == o.Annotation })
				blank.at(of.Path) // which makes it, as it was made here
			}
			if !reflect.DeepEqual(s, blank) {
				t.Errorf("%s sets more than its options: %+v", o.Annotation, s)
			}
		}
	}
	if count < 30 {
		t.Errorf("only %d options have annotations", count)
	}
}
