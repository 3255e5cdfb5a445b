// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"
)

type inner struct {
	A Seconds `json:"a" doc:"a"`
	B string  `json:"b" doc:"b"`
}

type sample struct {
	inner
	B     []string          `json:"b" doc:"hides inner's"`
	List  []inner           `json:"list"`
	At    Time              `json:"at"`
	Never *int              `json:"never,omitempty"`
	Null  *int              `json:"null"`
	Empty []string          `json:"empty,omitzero"`
	Gone  []string          `json:"gone,omitempty"`
	More  map[string]string `json:"-" api:"inline" doc:"more"`
}

func TestDataIsWhatJSONSays(t *testing.T) {
	moment := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	data := Data(sample{
		inner: inner{A: 5, B: "hidden"}, List: []inner{{A: 1}}, At: Time{moment}, Empty: []string{}, Gone: []string{}, More: map[string]string{"x": "y"},
	})
	want := map[string]any{
		"a": int64(5), "b": []string(nil), "list": []map[string]any{{"a": int64(1), "b": ""}}, "at": "2026-01-02T02:04:05.000000006Z",
		"null": nil, "empty": []string{}, "x": "y",
	}
	if !reflect.DeepEqual(data, want) {
		t.Errorf("data is %#v\nwant %#v", data, want)
	}
}

func TestDescribeNamesEachFieldOnce(t *testing.T) {
	var names []string
	for _, f := range Describe(sample{}) {
		names = append(names, f.Name)
		if f.Name == "b" && f.Doc != "hides inner's" {
			t.Errorf("b is described as %q", f.Doc)
		}
	}
	if want := []string{"a", "b", "list", "at", "never", "null", "empty", "gone"}; !slices.Equal(names, want) {
		t.Errorf("fields %v, want %v", names, want)
	}
	if !Open(sample{}) || Open(inner{}) || !Open(StatusLines{}) {
		t.Error("open")
	}
	if f, ok := Varying(reflect.TypeFor[sample]()); !ok || f.Name != "" || f.Type.Kind() != reflect.String || f.Doc != "more" {
		t.Errorf("varying: %+v, %v", f, ok)
	}
	if f, ok := Varying(reflect.TypeFor[inner]()); ok {
		t.Errorf("inner has varying fields: %+v", f)
	}
}

func TestFillTellsWhatIsGiven(t *testing.T) {
	given := map[string]any{"version": 3, "reason": "why"}
	var r UndeleteRequest
	Fill(&r, func(name string) (any, bool) {
		value, ok := given[name]
		if !ok {
			value = map[string]any{"name": "", "for": 60}[name]
		}
		return value, ok
	})
	if r.Version == nil || *r.Version != 3 || r.Reason != "why" || r.For.Duration() != time.Minute {
		t.Errorf("filled: %+v", r)
	}
	var c ConfigRequest
	Fill(&c, func(string) (any, bool) { return nil, false })
	if c != (ConfigRequest{}) {
		t.Errorf("not given, and filled: %+v", c)
	}
}

func TestTimesOfNoMomentAreEmpty(t *testing.T) {
	text, err := json.Marshal(Time{})
	if err != nil || string(text) != `""` {
		t.Errorf("%s, %v", text, err)
	}
	at := Time{time.Now()}
	for text, want := range map[string]bool{`""`: true, `"2026-01-02T03:04:05Z"`: true, `"yesterday"`: false, `7`: false} {
		if err := json.Unmarshal([]byte(text), &at); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Durations are texts where people read, numbers where programs do, and read back from both.
func TestPlainHasDurationsInWords(t *testing.T) {
	type deep struct {
		Name string             `json:"name"`
		Soak *Seconds           `json:"soak"`
		None *Seconds           `json:"none,omitempty"`
		Keys map[string]inner   `json:"keys"`
		List []inner            `json:"list"`
		In   inner              `json:"in"`
		Rest map[string]string  `json:"-" api:"inline"`
		Hits map[string]float64 `json:"hits"`
	}
	value := deep{
		Name: "n", Soak: new(Seconds(300)), Keys: map[string]inner{"k": {A: 2592000}}, List: []inner{{A: 90}}, In: inner{A: 1},
		Rest: map[string]string{"x": "y"}, Hits: map[string]float64{"z": 1},
	}
	want := map[string]any{
		"name": "n", "soak": "5m", "keys": map[string]any{"k": map[string]any{"a": "30d", "b": ""}}, "list": []map[string]any{{"a": "1m30s", "b": ""}},
		"in": map[string]any{"a": "1s", "b": ""}, "x": "y", "hits": map[string]any{"z": 1.0},
	}
	data := Plain(value)
	if !reflect.DeepEqual(data, want) {
		t.Errorf("plain is %#v\nwant %#v", data, want)
	}
	for _, form := range []map[string]any{data, Data(value)} {
		text, err := json.Marshal(form)
		if err != nil {
			t.Fatal(err)
		}
		var back deep
		if err := json.Unmarshal(text, &back); err != nil || *back.Soak != 300 || back.Keys["k"].A != 2592000 || back.List[0].A != 90 {
			t.Errorf("%s is read as %+v: %v", text, back, err)
		}
	}
	if err := json.Unmarshal([]byte(`"soon"`), new(Seconds)); err == nil {
		t.Error("soon is a duration")
	}
}
