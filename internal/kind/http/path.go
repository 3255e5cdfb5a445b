// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// path is where in JSON something is: names of objects and numbers of lists. The empty path is the whole.
type path []string

var (
	pathForm      = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}$`)
	parameterForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

func readJSONPath(field, text string, empty bool) (path, error) {
	switch {
	case text == "" && empty:
		return nil, nil
	case !pathForm.MatchString(text):
		return nil, fmt.Errorf("%s %s is not a path of names with dots between, such as data.id or keys.0.id", field, kind.Quote(text))
	}
	return strings.Split(text, "."), nil
}

// errNotJSON does not quote the answer, which may hold a value.
var errNotJSON = errors.New("the answer is not JSON")

// decode reads one JSON text. Numbers stay as they are written: an id may have more digits than a float.
func decode(data []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, errNotJSON
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errNotJSON
	}
	return v, nil
}

// find returns what is there; false if there is nothing.
func (p path) find(v any) (any, bool) {
	for _, name := range p {
		switch in := v.(type) {
		case map[string]any:
			next, ok := in[name]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			n, err := strconv.Atoi(name)
			if err != nil || n < 0 || n >= len(in) {
				return nil, false
			}
			v = in[n]
		default:
			return nil, false
		}
	}
	return v, v != nil
}

// text returns the text or the number that is there, empty if there is none.
func (p path) text(v any) string {
	found, _ := p.find(v)
	switch is := found.(type) {
	case string:
		return is
	case json.Number:
		return is.String()
	}
	return ""
}

func (p path) String() string { return strings.Join(p, ".") }
