// SPDX-License-Identifier: Apache-2.0

// Package api describes the paths of the engine: one type for each request and each response. The plugin answers from
// these types, client and sidecar decode into them, and path-help, OpenAPI and docs/api.md are generated from them.
//
// A field is described by its tags:
//
//	json     name, and omitempty or omitzero if the field may be absent
//	doc      description, for people
//	default  value of a request's field that is not given
//	api      required, query (read from the URL in reads and lists), secret, in any combination
//
// A field of a request that is a pointer tells "not given" apart from the zero value. A map that is embedded under the
// json name "-" with api:"inline" holds fields whose names vary.
package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
)

// Seconds is a duration. In a request it is one such as 30s, or a number of seconds from an hour on. In a response it is a
// number of seconds; in [Plain] responses, which people read, it is as [duration.Text] writes it.
type Seconds int64

// UnmarshalJSON reads both.
func (s *Seconds) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) != nil {
		return json.Unmarshal(data, (*int64)(s))
	}
	d, err := duration.Parse(text)
	if err != nil {
		return fmt.Errorf("%q is not a duration: %w", text, err)
	}
	*s = SecondsOf(d)
	return nil
}

// SignedSeconds are [Seconds] that may be negative in a request: -1 goes back to the default.
type SignedSeconds int64

// SecondsOf returns a duration in whole seconds.
func SecondsOf(d time.Duration) Seconds { return Seconds(d / time.Second) }

// Duration returns it as a duration.
func (s Seconds) Duration() time.Duration { return time.Duration(s) * time.Second }

// Time is a moment, as RFC 3339 with nanoseconds in UTC. No moment is an empty string.
type Time struct{ time.Time }

// String returns it as JSON has it.
func (t Time) String() string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// MarshalJSON implements [json.Marshaler].
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }

// UnmarshalJSON implements [json.Unmarshaler].
func (t *Time) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	*t = Time{}
	if text == "" {
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return fmt.Errorf("%q is not a time: %w", text, err)
	}
	t.Time = at
	return nil
}

// List is the response of a list.
type List struct {
	Keys []string `json:"keys,omitempty" doc:"Names, sorted. Absent if there are none."`
}

// Field describes a field of a request or a response.
type Field struct {
	Name     string
	Type     reflect.Type // not a pointer
	Doc      string
	Default  string
	Optional bool // it may be absent
	Required bool
	Query    bool
	Secret   bool

	index     []int
	inline    bool
	omitEmpty bool // as opposed to omitzero, which leaves what is empty and not nil
}

// Describe returns the fields of a struct, those of embedded structs among them. Fields whose names vary are
// not among them; [Varying] returns those.
func Describe(value any) []Field { return DescribeType(reflect.TypeOf(value)) }

// DescribeType is [Describe] of a type.
func DescribeType(t reflect.Type) []Field {
	all := describe(t)
	return slices.DeleteFunc(slices.Clone(all), func(f Field) bool {
		shadowed := slices.ContainsFunc(all, func(o Field) bool { return o.Name == f.Name && len(o.index) < len(f.index) })
		return f.inline || shadowed
	})
}

// Varying returns the fields of a struct whose names vary, as one without a name, and reports whether it has any.
func Varying(t reflect.Type) (Field, bool) {
	all := describe(t)
	n := slices.IndexFunc(all, func(f Field) bool { return f.inline })
	if n < 0 {
		return Field{}, false
	}
	f := all[n]
	f.Name, f.Type = "", f.Type.Elem()
	return f, true
}

// Open reports whether a response has fields whose names vary.
func Open(value any) bool {
	t := reflect.TypeOf(value)
	_, varying := Varying(t)
	return t.Kind() == reflect.Map || varying
}

func describe(t reflect.Type) []Field {
	var all []Field
	if t.Kind() != reflect.Struct {
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		marks := strings.Split(f.Tag.Get("api"), ",")
		inline := slices.Contains(marks, "inline")
		if f.Anonymous && name == "" {
			for _, below := range describe(f.Type) {
				below.index = append([]int{i}, below.index...)
				all = append(all, below)
			}
			continue
		}
		if name == "-" && !inline {
			continue
		}
		base := f.Type
		if base.Kind() == reflect.Pointer {
			base = base.Elem()
		}
		all = append(all, Field{
			Name: name, Type: base, Doc: f.Tag.Get("doc"), Default: f.Tag.Get("default"), Optional: options != "",
			Required: slices.Contains(marks, "required"), Query: slices.Contains(marks, "query"), Secret: slices.Contains(marks, "secret"),
			index: []int{i}, inline: inline, omitEmpty: options == "omitempty",
		})
	}
	return all
}

// Data returns a struct as the data of a response, or of a request: structs and maps become maps, by the names in JSON, and
// named types become their basic ones.
func Data(value any) map[string]any {
	data := map[string]any{}
	v := reflect.ValueOf(value)
	for _, f := range describe(v.Type()) {
		field := v.FieldByIndex(f.index)
		switch {
		case f.inline:
			maps.Copy(data, plain(field).(map[string]any))
		case f.absent(field):
		default:
			data[f.Name] = plain(field)
		}
	}
	return data
}

// Plain is [Data] for people: durations of the struct, and of structs in its maps and lists, are texts such as 5m.
func Plain(value any) map[string]any {
	data := Data(value)
	inWords(reflect.ValueOf(value), data)
	return data
}

// inWords puts texts in the place of the durations of a struct in its data.
func inWords(v reflect.Value, data map[string]any) {
	for _, f := range DescribeType(v.Type()) {
		field := v.FieldByIndex(f.index)
		for field.Kind() == reflect.Pointer && !field.IsNil() {
			field = field.Elem()
		}
		there, ok := data[f.Name]
		if !ok {
			continue
		}
		switch below := there.(type) {
		case map[string]any:
			if field.Kind() == reflect.Struct {
				inWords(field, below)
				continue
			}
			for _, key := range field.MapKeys() {
				if one, ok := below[key.String()].(map[string]any); ok && field.Type().Elem().Kind() == reflect.Struct {
					inWords(field.MapIndex(key), one)
				}
			}
		case []map[string]any:
			for n, one := range below {
				inWords(field.Index(n), one)
			}
		default:
			if field.Type() == secondsType {
				data[f.Name] = duration.Text(Seconds(field.Int()).Duration())
			}
		}
	}
}

// absent reports whether the JSON of a struct lacks the field.
func (f Field) absent(v reflect.Value) bool {
	if f.omitEmpty && (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) {
		return v.Len() == 0
	}
	return f.Optional && v.IsZero()
}

var (
	timeType    = reflect.TypeFor[Time]()
	secondsType = reflect.TypeFor[Seconds]()
)

// plain returns a value in basic types.
func plain(v reflect.Value) any {
	if v.Type() == timeType {
		return v.Interface().(Time).String()
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return plain(v.Elem())
	case reflect.Struct:
		return Data(v.Interface())
	case reflect.Map:
		all := make(map[string]any, v.Len())
		for _, key := range v.MapKeys() {
			all[key.String()] = plain(v.MapIndex(key))
		}
		return all
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Struct {
			return v.Interface()
		}
		if v.IsNil() {
			return []map[string]any(nil)
		}
		all := make([]map[string]any, 0, v.Len())
		for i := range v.Len() {
			all = append(all, Data(v.Index(i).Interface()))
		}
		return all
	case reflect.String:
		return v.String()
	case reflect.Bool:
		return v.Bool()
	case reflect.Int:
		return int(v.Int())
	case reflect.Int64:
		return v.Int()
	default:
		return v.Interface()
	}
}

// Fill sets the fields of a request, to which into points. get returns the value of a field, or its default where it was
// not given, as the basic type of the field. Fields that are lists of structs are not set.
func Fill(into any, get func(name string) (value any, given bool)) {
	v := reflect.ValueOf(into).Elem()
	for _, f := range describe(v.Type()) {
		if f.inline || f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct {
			continue
		}
		value, given := get(f.Name)
		field := v.FieldByIndex(f.index)
		if field.Kind() == reflect.Pointer {
			if !given {
				continue
			}
			field.Set(reflect.New(f.Type))
			field = field.Elem()
		}
		field.Set(reflect.ValueOf(value).Convert(f.Type))
	}
}

// encode is MarshalJSON of a type with fields whose names vary.
func encode(value any) ([]byte, error) { return json.Marshal(Data(value)) }

// decodeInline reads the fields whose names vary of an object, after the others.
func decodeInline(data []byte, of any, into *map[string]string) error {
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	for _, f := range describe(reflect.TypeOf(of)) {
		delete(all, f.Name)
	}
	*into = map[string]string{}
	for name, raw := range all {
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return err
		}
		(*into)[name] = text
	}
	return nil
}
