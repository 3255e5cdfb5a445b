// SPDX-License-Identifier: Apache-2.0

package key

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

// That the end of an undeleted version was decided is in its record, and over when it is retained, or undeleted once more.
func TestEnding(t *testing.T) {
	now := time.Unix(100, 0).UTC()
	k, err := example().WithRetained(2, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.WithEnding(2, true); err == nil {
		t.Error("a retained version ends")
	}
	undeleted, err := k.WithUndeleted(2, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	k, err = undeleted.WithEnding(2, true)
	if err != nil {
		t.Fatal(err)
	}
	k, err = k.WithEnding(2, false) // what was decided stays
	if err != nil {
		t.Fatal(err)
	}
	data, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(data)
	if v, _ := back.Version(2); err != nil || !v.Ending || !v.Cut || !strings.Contains(v.UndeletedText(), "which is under way") {
		t.Errorf("%+v (%v)", v, err)
	}
	if _, err := Decode([]byte(strings.Replace(string(data), `"state":"undeleted"`, `"state":"current"`, 1))); err == nil {
		t.Error("a current version ends")
	}
	for name, change := range map[string]func() (Key, error){
		"undeleted once more": func() (Key, error) { return back.WithUndeleted(2, now, now.Add(time.Hour)) },
		"retained":            func() (Key, error) { return back.WithRetained(2, now, now.Add(time.Hour)) },
		"erased":              func() (Key, error) { return back.WithErased(2) },
	} {
		changed, err := change()
		if v, _ := changed.Version(2); err != nil || v.Ending || v.Cut {
			t.Errorf("%s: %+v (%v)", name, v, err)
		}
	}
}

// A retained value is apart from those that may be used, in memory and in the record, and comes back as it was.
func TestQuarantine(t *testing.T) {
	now := time.Unix(100, 0).UTC()
	k, err := example().WithRetained(2, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if v := k.Versions[1]; v.State != Retained || !v.Value.Empty() || v.Sealed.Reveal() != "two" || v.State.Live() {
		t.Errorf("%+v", v)
	}
	if again, err := k.WithRetained(2, now.Add(time.Minute), now.Add(2*time.Hour)); err != nil || !again.Versions[1].Until.Equal(now.Add(time.Hour)) {
		t.Errorf("a second call changes the end to %s (%v)", again.Versions[1].Until, err)
	}
	data, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(data)
	if err != nil || back.Versions[1] != k.Versions[1] && !back.Versions[1].Sealed.Equal(k.Versions[1].Sealed) {
		t.Fatalf("%+v (%v)", back, err)
	}
	if again, err := back.Encode(); err != nil || !bytes.Equal(again, data) {
		t.Errorf("a record is written again differently: %v", err)
	}
	for name, text := range map[string]string{
		"in use":        strings.Replace(string(data), `"sealed":"two"`, `"value":"two"`, 1),
		"lost":          strings.Replace(string(data), `"sealed":"two",`, ``, 1),
		"undeleted":     strings.Replace(string(data), `"retained"`, `"undeleted"`, 1),
		"older release": strings.Replace(string(data), `"schema":8`, `"schema":99`, 1),
	} {
		if _, err := Decode([]byte(text)); err == nil || strings.Contains(err.Error(), "two") {
			t.Errorf("%s: %v", name, err)
		}
	}
	k, err = back.WithUndeleted(2, now, time.Time{})
	if err != nil || k.Versions[1].Value.Reveal() != "two" || !k.Versions[1].Sealed.Empty() || !slices.Equal(k.Undeleted(), []int{2}) {
		t.Errorf("%+v (%v)", k.Versions[1], err)
	}
	if k, err = k.WithErased(2); err != nil || !k.Versions[1].Value.Empty() || k.Versions[1].State != Destroyed {
		t.Errorf("%+v (%v)", k.Versions[1], err)
	}
	for _, number := range []int{1, 2, 3, 4} {
		if _, err := k.WithUndeleted(number, now, now); err == nil {
			t.Errorf("version %d is undeleted", number)
		}
	}
}

// A record of schema 4 says nothing of retention: the mount's default holds.
func TestRecordOfSchema4(t *testing.T) {
	data, err := example().Encode()
	if err != nil {
		t.Fatal(err)
	}
	older := strings.Replace(strings.Replace(string(data), `"schema":8`, `"schema":4`, 1), `,"retain":0`, "", 1)
	if back, err := Decode([]byte(older)); err != nil || back.Policy.Retain != Inherit {
		t.Errorf("retain is %s (%v)", back.Policy.Retain, err)
	}
}

// The bounds leave the newest.
func TestCrowded(t *testing.T) {
	now := time.Unix(100, 0)
	k := Key{Name: "k"}
	for n := range MaxRetained + 3 {
		k.Versions = append(k.Versions, Version{Number: n + 1, State: Retained, Sealed: NewValue("v"), Until: now})
	}
	if over := k.Crowded(); !slices.Equal(over, []int{3, 2, 1}) {
		t.Errorf("%v", over)
	}
	k.Versions = []Version{{Number: 1, State: Retained, Sealed: NewValue("v")}, {Number: 2, State: Retained, Sealed: NewValue(strings.Repeat("v", MaxRetainedBytes+1))}}
	if over := k.Crowded(); !slices.Equal(over, []int{1}) {
		t.Errorf("%v", over)
	}
}
