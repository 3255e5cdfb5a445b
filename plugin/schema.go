// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
)

// requestFields returns the schemas of a request's fields. Pairs of fill replace words in their descriptions.
func requestFields(request any, fill ...string) map[string]*framework.FieldSchema {
	words := strings.NewReplacer(fill...)
	all := map[string]*framework.FieldSchema{}
	for _, f := range api.Describe(request) {
		schema := &framework.FieldSchema{Type: requestType(f.Type), Description: words.Replace(f.Doc), Required: f.Required, Query: f.Query}
		schema.Default = defaultOf(schema.Type, f.Default)
		if f.Secret {
			schema.DisplayAttrs = &framework.DisplayAttributes{Sensitive: true}
		}
		all[f.Name] = schema
	}
	return all
}

func requestType(t reflect.Type) framework.FieldType {
	switch {
	case t == reflect.TypeFor[api.Seconds]():
		return framework.TypeDurationSecond
	case t == reflect.TypeFor[api.SignedSeconds]():
		return framework.TypeSignedDurationSecond
	case t == reflect.TypeFor[[]string]():
		return framework.TypeCommaStringSlice
	}
	return basicType(t)
}

func basicType(t reflect.Type) framework.FieldType {
	switch t.Kind() {
	case reflect.Bool:
		return framework.TypeBool
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return framework.TypeInt
	case reflect.Float64:
		return framework.TypeFloat
	case reflect.Slice:
		return framework.TypeSlice
	case reflect.Map:
		return framework.TypeMap
	case reflect.Struct:
		if t == reflect.TypeFor[api.Time]() {
			return framework.TypeString
		}
		return framework.TypeMap
	default:
		return framework.TypeString
	}
}

// defaultOf reads a default from a tag; nil: there is none.
func defaultOf(t framework.FieldType, text string) any {
	if text == "" {
		return nil
	}
	switch t {
	case framework.TypeBool:
		return text == "true"
	case framework.TypeInt:
		n, err := strconv.Atoi(text)
		if err != nil {
			panic(fmt.Sprintf("default %q of a request in internal/api is not a number", text))
		}
		return n
	case framework.TypeCommaStringSlice:
		return []string{text}
	default:
		return text
	}
}

// responses describes a response to OpenAPI; nil: it has no content.
func responses(response any) map[int][]framework.Response {
	if response == nil {
		return map[int][]framework.Response{http.StatusNoContent: {{Description: "No Content"}}}
	}
	types, several := response.(oneOf)
	if !several {
		types = oneOf{response}
	}
	fields := map[string]*framework.FieldSchema{}
	for _, one := range types {
		for _, f := range api.Describe(one) {
			schema := &framework.FieldSchema{Type: basicType(f.Type), Description: f.Doc, Required: !f.Optional && !several}
			switch f.Type {
			case reflect.TypeFor[[]string]():
				schema.Type = framework.TypeStringSlice
			case reflect.TypeFor[api.Seconds]():
				schema.Type = framework.TypeDurationSecond // a number, or as people read it
			}
			fields[f.Name] = schema
		}
	}
	return map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: fields}}}
}

// request reads the request of a type.
func request[T any](d *framework.FieldData) T {
	var r T
	api.Fill(&r, func(name string) (any, bool) {
		_, given := d.GetOk(name)
		return d.Get(name), given
	})
	return r
}

// set puts what was given in the place of what is there.
func set[T any](into *T, given *T) {
	if given != nil {
		*into = *given
	}
}

// answer makes a response, with warnings.
func answer(response any, warnings ...string) *logical.Response {
	resp := &logical.Response{Data: api.Data(response)}
	for _, w := range warnings {
		resp.AddWarning(w)
	}
	return resp
}

// inLines is [answer] with a line for each element of a list or map, unless the details are asked for.
func inLines(detailed bool, response any, warnings ...string) *logical.Response {
	resp := answer(response, warnings...)
	if !detailed {
		resp.Data = api.Lines(response)
	}
	return resp
}

// forPeople is [inLines] of a request that has fields of [api.Detail].
func forPeople(d *framework.FieldData, response any, warnings ...string) *logical.Response {
	return inLines(d.Get("detailed").(bool), response, warnings...)
}

// withDetail are fields and those of [api.Detail].
func withDetail(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	maps.Copy(fields, requestFields(api.Detail{}))
	return fields
}

// written reports of a request which of its fields were given.
func written(d *framework.FieldData) func(field string) bool {
	return func(field string) bool {
		_, given := d.GetOk(field)
		return given
	}
}

// setSeconds is [set] of a duration.
func setSeconds(into *time.Duration, given *api.Seconds) {
	if given != nil {
		*into = given.Duration()
	}
}

// inSeconds returns a duration as responses have it.
func inSeconds(d time.Duration) *api.Seconds { return new(api.SecondsOf(d)) }

// operation is an operation of a path with the type of its response.
type operation struct {
	*framework.PathOperation
	response any
}

// oneOf are the types of an operation that has several.
type oneOf []any

// rawLines stands for a response that is no JSON object.
type rawLines struct{}

// HandleRequest refuses a parameter of the wrong type before the framework does. The framework's error quotes what was
// given: a secret that somebody wrote as a list would stand in the answer and, since Vault hashes no errors, as it is in
// the audit log.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if wrong := b.wrongType(req); wrong != "" {
		return b.mounted(req, b.refuseType(ctx, req, wrong), nil)
	}
	resp, err := b.Backend.HandleRequest(ctx, req)
	return b.mounted(req, resp, err)
}

// HandleExistenceCheck asks by the path alone, which has all names that checks look for. The framework would convert the
// parameters too, and quote those that it cannot.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checks, exists bool, err error) {
	bare := *req
	bare.Data = nil
	return b.Backend.HandleExistenceCheck(ctx, &bare)
}

// wrongType says which parameter is not of its type and what to write, empty if all are. It quotes no value.
func (b *backend) wrongType(req *logical.Request) string {
	if len(req.Data) == 0 || req.Operation == logical.HelpOperation {
		return ""
	}
	path := b.Route(req.Path)
	if path == nil {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(req.Data)) {
		schema := path.Fields[name]
		if schema == nil {
			continue
		}
		d := framework.FieldData{Raw: map[string]any{name: req.Data[name]}, Schema: path.Fields}
		if _, _, err := d.GetOkErr(name); err != nil || guessed(schema.Type, req.Data[name]) {
			return fmt.Sprintf("parameter %q is not %s; nothing was changed", name, wanted(schema.Type))
		}
		if text, ok := req.Data[name].(string); ok && text == "" && name != fieldWait && numeric(schema.Type) {
			return fmt.Sprintf("parameter %q is empty, which would count as 0 or false; write %s, or leave it out; nothing was changed", name, example(schema.Type))
		}
		if bare := withoutUnit(schema.Type, req.Data[name]); name != fieldWait && bare != "" {
			return fmt.Sprintf("parameter %[1]q is %[2]s without a unit, which would be %[2]s seconds; write %[1]s=%[2]ss for that, or %[1]s=%[2]sm, %[1]s=%[2]sh or %[1]s=%[2]sd for minutes, hours or days; nothing was changed", name, bare)
		}
		if name != fieldWait && belowSecond(schema.Type, req.Data[name]) {
			return fmt.Sprintf("parameter %q is shorter than a second, which would count as 0; write whole seconds, such as 1s; nothing was changed", name)
		}
	}
	return ""
}

// fieldWait is a parameter that bounds a wait: less than a second is no wait, and does no harm.
const fieldWait = "wait"

// numeric reports whether the framework takes an empty text for a number or a truth: 0 and false, which switch off.
func numeric(t framework.FieldType) bool {
	return t == framework.TypeBool || t == framework.TypeInt || t == framework.TypeDurationSecond || t == framework.TypeSignedDurationSecond
}

// guessed reports whether the framework would make a truth of any number, a number of a truth, or cut a number to a whole one.
func guessed(t framework.FieldType, value any) bool {
	switch v := value.(type) {
	case bool:
		return t == framework.TypeInt
	case string, nil:
		return false
	case float64:
		return t == framework.TypeBool && v != 0 && v != 1 || t == framework.TypeInt && v != math.Trunc(v)
	default: // json.Number, and whole numbers
		text := fmt.Sprint(v)
		return t == framework.TypeBool && text != "0" && text != "1"
	}
}

func example(t framework.FieldType) string {
	switch t {
	case framework.TypeBool:
		return "true or false"
	case framework.TypeInt:
		return "a whole number"
	default:
		return "a duration such as 30s, or 0s"
	}
}

// belowSecond reports whether a duration is one that the framework would cut to 0. That switches off what it bounds.
func belowSecond(t framework.FieldType, value any) bool {
	text, ok := value.(string)
	if !ok || t != framework.TypeDurationSecond && t != framework.TypeSignedDurationSecond {
		return false
	}
	d, err := time.ParseDuration(text)
	return err == nil && d != 0 && d.Abs() < time.Second
}

// withoutUnit returns a duration below an hour that has no unit, empty if it has one, or is 0 or negative: who writes 30 or 90 has
// rarely seconds in mind.
func withoutUnit(t framework.FieldType, value any) string {
	if t != framework.TypeDurationSecond && t != framework.TypeSignedDurationSecond {
		return ""
	}
	text := strings.TrimSpace(fmt.Sprint(value))
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n <= 0 || n >= time.Hour.Seconds() {
		return ""
	}
	return text
}

// wanted is what a type takes, in words.
func wanted(t framework.FieldType) string {
	switch t {
	case framework.TypeBool:
		return "true or false; write one of them"
	case framework.TypeInt:
		return "a whole number; write one such as 2"
	case framework.TypeDurationSecond:
		return "a duration, or is negative; write one such as 30s, 10m or 24h"
	case framework.TypeSignedDurationSecond:
		return "a duration; write one such as 30s, 10m or 24h"
	case framework.TypeString:
		return "text; write one string, and no list and no object"
	case framework.TypeCommaStringSlice:
		return "a list of names; write them with commas between, as a,b"
	case framework.TypeSlice:
		return "a list; write one in JSON"
	case framework.TypeMap:
		return "an object; write one in JSON"
	default:
		return "of the type " + t.String()
	}
}

// redacted returns an option for people. An earlier release may have stored URLs with passwords in their queries.
func redacted(option string) string {
	if !strings.Contains(option, "://") {
		return option
	}
	for _, word := range strings.Fields(option) {
		if plain := dsn.Redact(word); plain != word {
			option = strings.ReplaceAll(option, word, plain)
		}
	}
	return option
}
