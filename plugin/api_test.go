// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/kinds"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest/toy"
)

// operationOf is the operation that has answered a call.
func operationOf(t *testing.T, b *backend, c goldenCall) operation {
	t.Helper()
	path := b.Route(c.path)
	if path == nil {
		t.Fatalf("%s has no path", c.path)
	}
	return unwrapped(t, path.Operations[c.operation])
}

func unwrapped(t *testing.T, h framework.OperationHandler) operation {
	t.Helper()
	if recorded, ok := h.(recordedOperation); ok {
		h = recorded.OperationHandler
	}
	made, ok := h.(operation)
	if !ok {
		t.Fatalf("%T is not made by operation, lenient or write", h)
	}
	return made
}

// Each response decodes into its type without a rest, and encodes to the same JSON. OpenAPI describes it.
func TestResponsesAreOfTheirTypes(t *testing.T) {
	b := newBackend(kinds.All())
	b.Route("config") // compiles the patterns
	seen := map[reflect.Type]bool{}
	for _, g := range []*golden{goldenFresh(t), goldenEarlier(t)} {
		for _, c := range g.calls {
			if c.response == nil || c.response.IsError() || c.response.Data[logical.HTTPRawBody] != nil || len(c.response.Data) == 0 && len(c.response.Warnings) > 0 {
				continue
			}
			made := operationOf(t, b, c)
			types, several := made.response.(oneOf)
			if !several {
				types = oneOf{made.response}
			}
			var problems []string
			fits := slices.ContainsFunc(types, func(one any) bool {
				problem := roundTrip(one, c.response.Data)
				problems = append(problems, problem)
				if problem == "" {
					seen[reflect.TypeOf(one)] = true
				}
				return problem == ""
			})
			if !fits {
				t.Errorf("%s %s: %s", c.operation, c.path, strings.Join(problems, "; "))
			}
			if !several && !api.Open(made.response) {
				schema.ValidateResponse(t, &made.Responses[http.StatusOK][0], c.response, true)
			}
		}
	}
	// Only servers are reconciled; sidecar and e2e tests have them.
	reconciled := api.Reconciled{Done: []string{"user restored"}, WouldDo: []string{}, Problems: []string{}, Notes: nil}
	if problem := roundTrip(api.Reconciled{}, api.Data(reconciled)); problem != "" {
		t.Error(problem)
	}
	seen[reflect.TypeOf(reconciled)] = true
	for _, path := range b.Paths {
		for verb, h := range path.Operations {
			types, several := unwrapped(t, h).response.(oneOf)
			if !several {
				types = oneOf{unwrapped(t, h).response}
			}
			for _, one := range types {
				if one != nil && one != (rawLines{}) && !seen[reflect.TypeOf(one)] {
					t.Errorf("no golden call of %s %s has answered %T", verb, path.Pattern, one)
				}
			}
		}
	}
}

// roundTrip decodes data into a value of a type and encodes that; empty: nothing has changed.
func roundTrip(of any, data map[string]any) string {
	want, err := json.Marshal(data)
	if err != nil {
		return err.Error()
	}
	for name := range data {
		if !declared(of, data, name) {
			return fmt.Sprintf("%T has no field %q", of, name)
		}
	}
	into := reflect.New(reflect.TypeOf(of))
	decoder := json.NewDecoder(bytes.NewReader(want))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into.Interface()); err != nil {
		return fmt.Sprintf("%T: %v", of, err)
	}
	encoded, err := json.Marshal(into.Interface())
	if err != nil {
		return err.Error()
	}
	var now any
	if err := json.Unmarshal(encoded, &now); err != nil {
		return err.Error()
	}
	got, err := json.Marshal(now)
	if err == nil && string(got) == string(want) {
		return ""
	}
	if value := into.Elem(); value.Kind() == reflect.Struct { // with durations as people read them
		if plain, err := json.Marshal(api.Plain(value.Interface())); err == nil && string(plain) == string(want) {
			return ""
		}
	}
	return fmt.Sprintf("%T: %s became %s", of, want, got)
}

var stepName = regexp.MustCompile(`^step_\d\d$`)

var lineName = regexp.MustCompile(`^line_\d{3}$`)

// declared reports whether a response may have a field. Where names vary, decoding refuses none.
func declared(of any, data map[string]any, name string) bool {
	if slices.ContainsFunc(api.Describe(of), func(f api.Field) bool { return f.Name == name }) {
		return true
	}
	var options []kind.Field
	k, _ := append(kinds.All(), toy.New(toy.NewDirectory("", 0))).Get(fmt.Sprint(data["kind"]))
	switch of.(type) {
	case api.StatusLines, api.Metrics, api.IdentifiedLines, api.RotationLines, api.PlainLines:
		return true // the names of keys and workloads, or numbered lines
	case api.ReceiptLines:
		return lineName.MatchString(name)
	case api.Plan:
		return stepName.MatchString(name)
	case api.Key:
		if k != nil {
			options = k.Fields()
		}
	case api.Connection:
		if connector, ok := k.(kind.Connector); ok {
			options = connector.ConnectionFields()
		}
	}
	return slices.ContainsFunc(options, func(f kind.Field) bool { return f.Name == name && !f.Secret })
}

// roundTrip notices a name that nothing declares, also in types that have fields whose names vary.
func TestRoundTripRefusesUndeclaredNames(t *testing.T) {
	for _, c := range []struct {
		of       any
		kind     string
		declared string
		not      []string
	}{
		{api.Key{}, "token", "format", []string{"misspelt_kindd", "nodes", "step_01"}},
		{api.Key{}, "postgres", "owner", []string{"format", "owners"}},
		{api.Key{}, "misspelt", "", []string{"format"}},
		{api.Connection{}, "redis", "nodes", []string{"misspelt_kindd", "password", "owners"}},
		{api.Connection{}, "token", "", []string{"format", "url"}},
		{api.Plan{}, "", "step_01", []string{"misspelt_kindd", "step_1", "step_011", "format", "kind"}},
		{api.Version{}, "", "", []string{"step_01"}},
	} {
		data := api.Data(c.of)
		if c.kind != "" {
			data["kind"] = c.kind
		}
		if c.declared != "" {
			data[c.declared] = "y"
		}
		if problem := roundTrip(c.of, data); problem != "" {
			t.Errorf("%T of kind %q: %s", c.of, c.kind, problem)
		}
		for _, name := range c.not {
			wrong := maps.Clone(data)
			wrong[name] = "y"
			if problem := roundTrip(c.of, wrong); !strings.Contains(problem, name) {
				t.Errorf("%T of kind %q may have %s: %q", c.of, c.kind, name, problem)
			}
		}
	}
}

// docs/api.md is generated by "make generate", or go test ./plugin -run TestAPIPage -update.
func TestAPIPage(t *testing.T) {
	const path = "../docs/api.md"
	page := apiPage(t, newBackend(kinds.All()))
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if page != string(want) {
		t.Errorf("%s differs; run \"make generate\":\n%s", path, firstDifference(string(want), page))
	}
}

// Fields whose names vary are the last row of their type.
func TestAPIPageHasVaryingFields(t *testing.T) {
	page := apiPage(t, newBackend(kinds.All()))
	for _, of := range []any{api.Key{}, api.Connection{}, api.Plan{}} {
		f, ok := api.Varying(reflect.TypeOf(of))
		_, section, _ := strings.Cut(page, "\n### "+reflect.TypeOf(of).Name()+"\n")
		section, _, _ = strings.Cut(section, "\n### ")
		if !ok || f.Doc == "" || !strings.HasSuffix(strings.TrimSpace(section), "| other names | text | "+f.Doc+" |") {
			t.Errorf("%T: %q is not its last row", of, f.Doc)
		}
	}
}

var (
	patternName  = regexp.MustCompile(`\(\?P<(\w+)>(?:[^()]|\([^()]*(?:\([^()]*\)[^()]*)*\))*\)`)
	patternRests = strings.NewReplacer("/?$", "", "$", "")
)

// pathName is a pattern for people: hyvve/keys/NAME.
func pathName(pattern string) string {
	named := patternName.ReplaceAllStringFunc(pattern, func(group string) string {
		return strings.ToUpper(patternName.FindStringSubmatch(group)[1])
	})
	return "hyvve/" + patternRests.Replace(named)
}

// page is a page that is being written.
type page struct {
	strings.Builder
	types []reflect.Type // described below the paths
}

func apiPage(t *testing.T, b *backend) string {
	p := &page{}
	p.WriteString("# Paths\n\nThis page is generated from `internal/api` by `make generate`. Replace `hyvve` with the name of the mount.\n" +
		"A duration in a request is a text such as `30s` or `90d`. A number of seconds is taken from an hour on: a smaller one needs a unit, except in `wait`.\n" +
		"In a response, a duration is such a text, or a number of seconds with `detailed=true`, and in paths without that field. A time is RFC 3339 in UTC, or empty.\n" +
		"`vault path-help hyvve/PATH` says what a path does.\n")
	paths := slices.Clone(b.Paths)
	slices.SortStableFunc(paths, func(a, b *framework.Path) int { return strings.Compare(pathName(a.Pattern), pathName(b.Pattern)) })
	for _, path := range paths {
		p.path(t, path)
	}
	p.WriteString("\n## Types\n")
	titles := map[string]bool{}
	for n := 0; n < len(p.types); n++ { // a table may add types
		if title := strings.ToLower(p.types[n].Name()); titles[title] {
			t.Errorf("two types are called %s: links lead to the first one", p.types[n].Name())
		} else {
			titles[title] = true
		}
		fmt.Fprintf(p, "\n### %s\n\n| Field | Type | Description |\n|---|---|---|\n", p.types[n].Name())
		for _, f := range api.DescribeType(p.types[n]) {
			if f.Doc == "" {
				t.Errorf("field %s of %s has no doc tag", f.Name, p.types[n])
			}
			fmt.Fprintf(p, "| `%s` | %s | %s |\n", f.Name, p.typeName(f.Type), cell(f.Doc))
		}
		if f, ok := api.Varying(p.types[n]); ok {
			fmt.Fprintf(p, "| other names | %s | %s |\n", p.typeName(f.Type), cell(f.Doc))
		}
	}
	return p.String()
}

func (p *page) path(t *testing.T, path *framework.Path) {
	fmt.Fprintf(p, "\n## %s\n\n%s\n", pathName(path.Pattern), path.HelpSynopsis)
	p.WriteString("\n| Operation | Response | Description |\n|---|---|---|\n")
	for _, verb := range []logical.Operation{logical.ListOperation, logical.ReadOperation, logical.CreateOperation, logical.UpdateOperation, logical.DeleteOperation} {
		if h := path.Operations[verb]; h != nil {
			made := unwrapped(t, h)
			fmt.Fprintf(p, "| %s | %s | %s |\n", verb, p.responseName(made.response), cell(made.Summary))
		}
	}
	if len(path.Fields) == 0 {
		return
	}
	p.WriteString("\n| Field | Type | Default | Description |\n|---|---|---|---|\n")
	names := make([]string, 0, len(path.Fields))
	for name := range path.Fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f := path.Fields[name]
		byDefault := ""
		if f.Default != nil {
			byDefault = fmt.Sprintf("`%v`", f.Default)
		}
		fmt.Fprintf(p, "| `%s` | %s | %s | %s |\n", name, p.fieldType(t, name, f.Type), byDefault, cell(f.Description))
	}
}

// fieldType names the type of a request's field.
func (p *page) fieldType(t *testing.T, name string, of framework.FieldType) string {
	if of != framework.TypeSlice {
		return fieldTypes[of]
	}
	fields := api.Describe(api.ReportRequest{})
	n := slices.IndexFunc(fields, func(f api.Field) bool { return f.Name == name })
	if n < 0 {
		t.Fatalf("%s is a list of objects, and not of api.ReportRequest: name its type here", name)
	}
	return p.typeName(fields[n].Type)
}

// fieldTypes are the types of requests' fields, for people.
var fieldTypes = map[framework.FieldType]string{
	framework.TypeString: "text", framework.TypeBool: "true or false", framework.TypeInt: "number", framework.TypeDurationSecond: "duration",
	framework.TypeSignedDurationSecond: "duration", framework.TypeCommaStringSlice: "list of texts",
}

func (p *page) responseName(response any) string {
	switch r := response.(type) {
	case nil:
		return "none"
	case rawLines:
		return "JSON lines"
	case oneOf:
		var names []string
		for _, one := range r {
			names = append(names, p.typeName(reflect.TypeOf(one)))
		}
		return strings.Join(names, " or ")
	default:
		return p.typeName(reflect.TypeOf(response))
	}
}

// typeName names the type of a response's field, and notes that it is to be described.
func (p *page) typeName(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Pointer:
		return p.typeName(t.Elem())
	case t == reflect.TypeFor[api.Time]():
		return "time"
	case t == reflect.TypeFor[api.Seconds]():
		return "duration"
	case t.Kind() == reflect.Slice:
		return "list of " + p.typeName(t.Elem())
	case t.Kind() == reflect.Map:
		return "map of " + p.typeName(t.Elem())
	case t.Kind() == reflect.Interface:
		return "lines and values"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() != reflect.Struct:
		return "number"
	}
	if !slices.Contains(p.types, t) {
		p.types = append(p.types, t)
	}
	return fmt.Sprintf("[%s](#%s)", t.Name(), strings.ToLower(t.Name()))
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
