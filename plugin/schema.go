// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
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
			if f.Type == reflect.TypeFor[[]string]() {
				schema.Type = framework.TypeStringSlice
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
