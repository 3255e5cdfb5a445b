// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestOneMoreRotation(t *testing.T) {
	w := Whole{With: []With{{Text: "of master"}}}
	if text := w.WithText(); text != "keys=all starts one more rotation beside this one" {
		t.Errorf("%q", text)
	}
	w.With = append(w.With, w.With[0])
	if text := w.WithText(); text != "keys=all starts 2 more rotations beside this one" {
		t.Errorf("%q", text)
	}
}

// What is kept of a request for all keys stays far below what storage takes in one entry, however many rotations run.
func TestWholeIsBounded(t *testing.T) {
	var w Whole
	for n := range 2000 {
		w.Join(fmt.Sprintf("20261130t184601.000-%06d", n), strings.Repeat("x", 2*maxWholeText))
		w.Leave(fmt.Sprint("key-", n), strings.Repeat("x", 2*maxWholeText))
	}
	data, err := json.Marshal(w)
	if err != nil || len(data) > 300_000 || len(w.With) != 2000 || len(w.LeftOut)+w.More != 2000 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if text := w.WithText(); len(text) > 200 || !strings.Contains(text, "and 1997 more") {
		t.Errorf("%q", text)
	}
}
