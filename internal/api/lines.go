// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// MaxLine is how many characters of a text a line has for people; longer texts are wrapped.
const MaxLine = 140

// maxLines is how many elements of a list people get.
const maxLines = 100

// noneText is the line of a list or map that is empty.
const noneText = "none"

// liner is a response, or a part of one, that people read as a line of its own form.
type liner interface{ line() string }

// Lines is [Plain] with a line for each element of a list or map, as a terminal shows it. The elements of gates are gate_01, gate_02
// and so on, those of the map versions are versions_NAME. Lists of names stay.
func Lines(value any) map[string]any {
	v, plain, lines := reflect.ValueOf(value), Plain(value), map[string]any{}
	for _, f := range DescribeType(v.Type()) {
		there, ok := plain[f.Name]
		if !ok {
			continue
		}
		delete(plain, f.Name) // what is left at the end are fields whose names vary
		field := v.FieldByIndex(f.index)
		switch {
		case there == nil: // a pointer, which says nothing
		case f.Type.Kind() == reflect.Map:
			addMap(lines, f.Name, field)
		case f.Type.Kind() == reflect.Slice && (f.Type.Elem().Kind() == reflect.Struct || strings.Contains(f.Doc, "in words")):
			addList(lines, singular(f.Name), f.Name, field)
		case f.Type.Kind() == reflect.Struct && f.Type != timeType:
			lines[f.Name] = lineOf(field)
		default:
			lines[f.Name] = there
		}
	}
	maps.Copy(lines, plain)
	Wrap(lines)
	return lines
}

// Wrap breaks long texts of an answer for people.
func Wrap(lines map[string]any) {
	for name, there := range lines {
		if text, ok := there.(string); ok {
			lines[name] = wrapped(text)
		}
	}
}

// addMap adds a line for each element of a map.
func addMap(lines map[string]any, name string, v reflect.Value) {
	if v.Len() == 0 {
		lines[name] = noneText
	}
	for _, key := range slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }) {
		of := name + "_" + key.String()
		if one := v.MapIndex(key); one.Kind() == reflect.Slice && one.Type().Elem().Kind() == reflect.Struct {
			addList(lines, of, of, one)
		} else {
			lines[of] = lineOf(one)
		}
	}
}

// addList adds a numbered line for each element of a list.
func addList(lines map[string]any, each, whole string, v reflect.Value) {
	if v.Len() == 0 {
		lines[whole] = noneText
	}
	width := max(2, len(fmt.Sprint(min(v.Len(), maxLines))))
	if more := v.Len() - maxLines; more > 0 {
		lines[each+"_more"] = fmt.Sprintf("%d more; detailed=true has all", more)
	}
	for n := range min(v.Len(), maxLines) {
		lines[fmt.Sprintf("%s_%0*d", each, width, n+1)] = lineOf(v.Index(n))
	}
}

func singular(name string) string {
	if stem, ok := strings.CutSuffix(name, "sses"); ok {
		return stem + "ss"
	}
	if stem, ok := strings.CutSuffix(name, "ies"); ok {
		return stem + "y"
	}
	return strings.TrimSuffix(name, "s")
}

// lineOf says a value in a line: of a struct, what is not empty, by name.
func lineOf(v reflect.Value) string {
	if l, ok := v.Interface().(liner); ok {
		return l.line()
	}
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil():
		return lineOf(v.Elem())
	case v.Type() == secondsType:
		return fmt.Sprint(Plain(struct {
			S Seconds `json:"s"`
		}{Seconds(v.Int())})["s"])
	case v.Type() == timeType:
		return v.Interface().(Time).String()
	case v.Kind() == reflect.Slice:
		all := make([]string, 0, v.Len())
		for n := range v.Len() {
			all = append(all, lineOf(v.Index(n)))
		}
		return strings.Join(all, ", ")
	case v.Kind() == reflect.Map:
		all := map[string]string{}
		for _, key := range v.MapKeys() {
			all[key.String()] = lineOf(v.MapIndex(key))
		}
		parts := make([]string, 0, len(all))
		for _, name := range slices.Sorted(maps.Keys(all)) {
			parts = append(parts, name+": "+all[name])
		}
		return strings.Join(parts, ", ")
	case v.Kind() == reflect.Struct:
		return fieldsLine(v)
	}
	return fmt.Sprint(v.Interface())
}

// fieldsLine names the fields of a struct that are not empty.
func fieldsLine(v reflect.Value) string {
	var parts []string
	for _, f := range DescribeType(v.Type()) {
		field := v.FieldByIndex(f.index)
		if field.IsZero() || (field.Kind() == reflect.Slice || field.Kind() == reflect.Map) && field.Len() == 0 {
			continue
		}
		name := strings.ReplaceAll(f.Name, "_", " ")
		switch text := lineOf(field); {
		case field.Kind() == reflect.Bool:
			parts = append(parts, name)
		case f.Type.Kind() == reflect.Struct && f.Type != timeType, f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct, f.Type.Kind() == reflect.Map:
			parts = append(parts, name+" ("+text+")")
		default:
			parts = append(parts, name+" "+text)
		}
	}
	return strings.Join(parts, ", ")
}

// wrapped breaks a long text into lines, where a part of it ends if it can: commands stay whole.
func wrapped(text string) string {
	var lines []string
	for len([]rune(text)) > MaxLine {
		at := breakOf(text)
		if at <= 0 {
			break
		}
		lines = append(lines, strings.TrimRight(text[:at], " "))
		text = strings.TrimLeft(text[at:], " ")
	}
	return strings.Join(append(lines, text), "\n    ")
}

// breakOf returns where the first line of a long text ends.
func breakOf(text string) int {
	most := len(string([]rune(text)[:MaxLine]))
	for _, end := range []string{"; ", ". ", ", ", ": ", " | ", " "} {
		if command := strings.LastIndex(text[:most], "vault "); end == " " && command > most/3 {
			return command
		}
		if at := strings.LastIndex(text[:most], end); at > most/3 {
			return at + len(end)
		}
	}
	if at := strings.Index(text[most:], " "); at >= 0 {
		return most + at + 1
	}
	return -1
}

func (c VersionChange) line() string { return fmt.Sprintf("%d -> %d", c.From, c.To) }

func (w WithRotation) line() string { return strings.TrimPrefix(w.ID+", ", ", ") + w.Text }

func (k LeftOutKey) line() string { return k.Key + ": " + k.Reason }

func (w Wave) line() string { return w.Workload + ": " + strings.Join(w.Instances, ", ") }

func (g Gate) line() string {
	state := "waits"
	if g.Holds {
		state = "holds"
	}
	if g.Note != "" {
		return state + ": " + g.Gate + ": " + g.Note
	}
	return strings.TrimSuffix(state+": "+g.Gate+": "+g.Reason, ": ")
}

func (i RotationInstance) line() string {
	text := i.Workload + "/" + i.Instance + ": may go to: " + i.MayGoTo
	if i.Loaded {
		text += ", loaded"
	} else {
		text += ", NOT LOADED"
	}
	text += ", proof " + i.Proof
	if i.Healthy {
		return text + ", healthy"
	}
	text += ", NOT HEALTHY"
	if i.Reason != "" {
		text += ": " + i.Reason
	}
	return text + ", seen " + i.Seen.String()
}

func (e Event) line() string {
	text := fmt.Sprintf("%s %s: %s", e.Time.inLine(), strings.TrimSpace(e.State+" "+e.Step), e.Text)
	if e.By != "" {
		text += ", by " + e.By
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

func (h HeldBack) line() string {
	held := time.Duration(h.Held * float64(time.Second)).Round(time.Millisecond)
	return fmt.Sprintf("%s: %s held it back for %s, until %s: %s", strings.TrimSpace(h.State+" "+h.Step), h.Gate, held, h.Last.inLine(), h.Reason)
}

func (h Held) line() string {
	var parts []string
	if h.Presents > 0 {
		parts = append(parts, fmt.Sprintf("presents %d", h.Presents))
	}
	if len(h.Accepts) > 0 {
		parts = append(parts, "accepts "+strings.Trim(fmt.Sprint(h.Accepts), "[]"))
	}
	return strings.Join(parts, ", ")
}

func (i Instance) line() string {
	text := i.Instance + ": healthy"
	if !i.Healthy {
		text = i.Instance + ": NOT HEALTHY"
	}
	if i.LockedOut != "" {
		text += ", LOCKED OUT: " + i.LockedOut
	}
	if i.Reason != "" {
		text += ", " + i.Reason
	}
	if !i.Leaving.IsZero() {
		text += ", LEAVING: its sidecar stopped at " + i.Leaving.inLine() + ", it counts until " + i.Counts.inLine()
	}
	held := "nothing"
	if len(i.Loaded) > 0 {
		held = lineOf(reflect.ValueOf(i.Loaded))
	}
	return text + ", seen " + i.Seen.inLine() + ", login " + i.Login + ", has loaded " + held + ", proof " + i.Proof
}

// Line says a value in one line for people.
func Line(value any) string { return lineOf(reflect.ValueOf(value)) }
