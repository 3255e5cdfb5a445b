// SPDX-License-Identifier: Apache-2.0

package http

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// The placeholders that templates may hold. There are no others, so that no template reaches a secret but the one that its
// request is about.
const (
	placeLabel    = "label"    // what the provider is to call the value
	placeID       = "id"       // what the provider calls the value
	placePassword = "password" // the connection's
	placeValue    = "value"    // of a version
	placeBasic    = "basic"    // user and password, or id and value, as HTTP's Basic scheme has them
	placeKey      = "key"      // the key's name
	placeParam    = "parameter."
)

var placeholders = regexp.MustCompile(`\{\{\s*([^{}]*?)\s*\}\}`)

// template is a text with placeholders.
type template struct {
	field string // of the connection, for errors
	text  string
}

// readTemplate refuses placeholders but those that the field may have. Parameters are always allowed where names are.
func readTemplate(field, text string, names ...string) (template, error) {
	t := template{field, text}
	if !printable(text) {
		return t, fmt.Errorf("%s holds a control character; write it on one line", field)
	}
	for _, m := range placeholders.FindAllStringSubmatch(text, -1) {
		name, isParameter := strings.CutPrefix(m[1], placeParam)
		if isParameter && slices.Contains(names, placeParam) && parameterName.MatchString(name) || !isParameter && slices.Contains(names, m[1]) {
			continue
		}
		return t, fmt.Errorf("%s holds a placeholder that is not allowed there; use %s", field, allowedText(names))
	}
	if rest := placeholders.ReplaceAllString(text, ""); strings.Contains(rest, "{{") {
		return t, fmt.Errorf("%s holds a placeholder that does not end; use %s", field, allowedText(names))
	}
	return t, nil
}

func allowedText(names []string) string {
	var all []string
	for _, name := range names {
		if name == placeParam {
			name += "NAME"
		}
		all = append(all, "{{"+name+"}}")
	}
	return strings.Join(all, ", ")
}

// has reports whether the template holds a placeholder.
func (t template) has(name string) bool {
	return slices.ContainsFunc(placeholders.FindAllStringSubmatch(t.text, -1), func(m []string) bool { return m[1] == name })
}

// fill puts values in the place of placeholders, each as escape writes it.
func (t template) fill(values map[string]string, escape func(string) string) (string, error) {
	missing := ""
	text := placeholders.ReplaceAllStringFunc(t.text, func(place string) string {
		name := placeholders.FindStringSubmatch(place)[1]
		value, ok := values[name]
		if !ok {
			missing = name
		}
		return escape(value)
	})
	if name, ok := strings.CutPrefix(missing, placeParam); ok {
		return "", fmt.Errorf("%s needs %s, which the key does not have; add %s=VALUE to its %s", t.field, name, name, optionParameters)
	}
	if missing != "" {
		return "", fmt.Errorf("%s needs the provider's %s of the value, which is not known", t.field, missing)
	}
	return text, nil
}

func asIs(text string) string { return text }

// path escapes what it fills in for a segment of a path, or for a value of its query.
func (t template) path(values map[string]string) (string, error) {
	path, query, asks := strings.Cut(t.text, "?")
	text, err := template{t.field, path}.fill(values, url.PathEscape)
	if err != nil || !asks {
		return text, err
	}
	query, err = template{t.field, query}.fill(values, url.QueryEscape)
	return text + "?" + query, err
}

// isJSON reports whether a body is JSON, and otherwise a form.
func (t template) isJSON() bool {
	return strings.HasPrefix(strings.TrimSpace(t.text), "{") || strings.HasPrefix(strings.TrimSpace(t.text), "[")
}

func (t template) body(values map[string]string) (body, contentType string, err error) {
	if t.isJSON() {
		body, err = t.fill(values, inJSON)
		return body, "application/json", err
	}
	body, err = t.fill(values, url.QueryEscape)
	return body, "application/x-www-form-urlencoded", err
}

// inJSON escapes a text for the inside of a string.
func inJSON(text string) string {
	data, err := json.Marshal(text)
	if err != nil || len(data) < 2 {
		return ""
	}
	return string(data[1 : len(data)-1])
}

// readPath reads the template of a path below the API's URL.
func readPath(field, text string, names ...string) (template, error) {
	t, err := readTemplate(field, text, names...)
	switch {
	case err != nil:
		return t, err
	case !strings.HasPrefix(text, "/") || strings.HasPrefix(text, "//"):
		return t, fmt.Errorf("%s does not begin with one '/'; write the path below %s, such as /v1/tokens", field, fieldAPI)
	case strings.ContainsAny(text, "#\\ ") || slices.ContainsFunc(strings.Split(text, "/"), func(s string) bool { return s == "." || s == ".." }):
		return t, fmt.Errorf("%s holds '#', '\\', a space, or a segment of dots; write the path as the provider's server shall see it", field)
	}
	return t, nil
}

// readBody reads the template of a body: JSON if it begins with a brace or a bracket, and otherwise a form.
func readBody(field, text string, names ...string) (template, error) {
	t, err := readTemplate(field, text, names...)
	if err != nil || !t.isJSON() {
		return t, err
	}
	// Outside of a string, neither stands for anything that is JSON.
	tried, err := t.fill(everything(t), func(string) string { return "x" })
	if err != nil || !json.Valid([]byte(tried)) {
		return t, fmt.Errorf("%s is not JSON with placeholders inside of strings; write it as {\"name\": \"{{%s}}\"}", field, placeLabel)
	}
	return t, nil
}

// everything has a text for each placeholder of a template.
func everything(t template) map[string]string {
	all := map[string]string{}
	for _, m := range placeholders.FindAllStringSubmatch(t.text, -1) {
		all[m[1]] = "x"
	}
	return all
}

// publicTemplate returns a template as a journal may keep it: nothing of one that may hold a secret in the place of a placeholder.
func publicTemplate(place ...string) func(string) string {
	return func(text string) string {
		for _, name := range place {
			if strings.Contains(text, "{{"+name+"}}") {
				return kind.PublicText("", text)
			}
		}
		return kind.Hidden
	}
}
