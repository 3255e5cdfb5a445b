// SPDX-License-Identifier: Apache-2.0

package key

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// hidden holds a value in a field that fmt prints without asking.
type hidden struct{ v Value }

func TestValueIsOpaque(t *testing.T) {
	const secret = "canary-value"
	v := NewValue(secret)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v, "in", struct{ V Value }{v})
	asJSON, err := json.Marshal(map[string]any{"v": v, "list": []Value{v}})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		fmt.Sprint(v), fmt.Sprintf("%v %+v %#v %s %q %x %d", v, v, v, v, v, v, v), fmt.Sprintf("%+v", struct{ V Value }{v}),
		fmt.Sprintf("%v", &v), fmt.Sprintf("%v %+v %#v", hidden{v}, hidden{v}, hidden{v}), log.String(), string(asJSON),
	} {
		if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
			t.Errorf("%q holds the secret", text)
		}
	}
	if v.Reveal() != secret || !v.Equal(NewValue(secret)) || v.Equal(NewValue("x")) || v.Empty() || v.Len() != len(secret) {
		t.Error("the value is not what was put in")
	}
}

func example() Key {
	return Key{
		Name: "encryption-master-key", Env: "ENCRYPTION_MASTER_KEY", Kind: "token", Options: map[string]string{"format": "base64"},
		Protects: []Column{{Schema: "public", Table: "t", Column: "c", Layout: TagFirst}},
		Policy:   Policy{Period: time.Hour, Soak: -1, Confirm: "manual", ConfirmBy: "other"}, PolicyBy: "entity", CountsFrom: time.Unix(1, 3).UTC(), Created: time.Unix(1, 2).UTC(),
		Versions: []Version{
			{Number: 1, State: Destroyed, Fingerprint: "f1", Created: time.Unix(1, 0).UTC()},
			{Number: 2, State: Previous, Value: NewValue("two"), Fingerprint: "f2", Rotation: "r"},
			{Number: 3, State: Current, Value: NewValue("three"), Fingerprint: "f3", CreatedBy: "me", Handle: "id"},
		},
	}
}

func TestRecord(t *testing.T) {
	k := example()
	data, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := back.Encode()
	if err != nil || !bytes.Equal(data, again) || !back.CountsFrom.Equal(k.CountsFrom) {
		t.Errorf("a record is written again differently: %v", err)
	}
	if v, ok := back.Current(); !ok || v.Value.Reveal() != "three" || v.Handle != "id" {
		t.Error("the current value or its handle is lost")
	}
	for name, text := range map[string]string{
		"schema":  strings.Replace(string(data), `"schema":8`, `"schema":99`, 1),
		"order":   strings.Replace(string(data), `"number":3`, `"number":1`, 1),
		"state":   strings.Replace(string(data), `"current"`, `"curent"`, 1),
		"value":   strings.Replace(string(data), `"value":"three",`, ``, 1),
		"unknown": strings.Replace(string(data), `"env"`, `"enw"`, 1),
		"garbage": "three",
	} {
		if _, err := Decode([]byte(text)); err == nil || strings.Contains(err.Error(), "three") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A record of schema 2 is read, ignores no columns, and observes servers for as long as the mount says.
func TestRecordOfSchema2(t *testing.T) {
	k := example()
	k.IgnoreColumns, k.Witness = []string{"audit.copies.body"}, "main"
	data, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := Decode(data); err != nil || !slices.Equal(back.IgnoreColumns, k.IgnoreColumns) || back.Witness != "main" {
		t.Errorf("ignore_columns is %v, witness %q (%v)", back.IgnoreColumns, back.Witness, err)
	}
	older := strings.Replace(strings.Replace(string(data), `"schema":8`, `"schema":2`, 1), `"ignore_columns":["audit.copies.body"],"witness":"main",`, "", 1)
	if back, err := Decode([]byte(older)); err != nil || back.IgnoreColumns != nil || len(back.Versions) != len(k.Versions) || back.Policy.Observe != Inherit {
		t.Errorf("%v", err)
	}
}

// A record of schema 5 has ignore_columns under an older name.
func TestRecordOfSchema5(t *testing.T) {
	k := example()
	k.IgnoreColumns = []string{"audit.copies.body"}
	data, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	older := strings.NewReplacer(`"schema":8`, `"schema":5`, `"ignore_columns":`, `"waives":`).Replace(string(data))
	back, err := Decode([]byte(older))
	if err != nil || !slices.Equal(back.IgnoreColumns, k.IgnoreColumns) {
		t.Fatalf("ignore_columns is %v (%v)", back.IgnoreColumns, err)
	}
	if again, err := back.Encode(); err != nil || string(again) != string(data) {
		t.Errorf("written again as %s (%v)", again, err)
	}
}

func TestParseColumn(t *testing.T) {
	for text, want := range map[string]string{"a.b": "a.b", "public.a.b": "a.b", "s.a.b": "s.a.b"} {
		if c, err := ParseColumn(text); err != nil || c.String() != want {
			t.Errorf("%s: %s, %v", text, c, err)
		}
	}
	for _, text := range []string{"", "a", "a.", ".a", "a..b", "a.b.c.d"} {
		if _, err := ParseColumn(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestParseProtected(t *testing.T) {
	for text, want := range map[string]string{
		"users.secret:tag-last": "users.secret:tag-last",
		"s.users.secret:tag-first where a=b and c != d and e is null":     "s.users.secret:tag-first where a=b and c!=d and e is null",
		"users.secret:tag-last where kind= and x is not null and y=a = b": "users.secret:tag-last where kind= and x is not null and y=a = b",
	} {
		c, err := ParseProtected(text)
		if err != nil || c.Protected() != want || c.Validate() != nil {
			t.Errorf("%q: %q, %v", text, c.Protected(), err)
		}
	}
	for _, text := range []string{"users.secret", "users:tag-last", "users.secret:tag-last where", "users.secret:tag-last where ; drop", "users.secret:tag-last where =b"} {
		if c, err := ParseProtected(text); err == nil && c.Validate() == nil {
			t.Errorf("%q is taken as %q", text, c.Protected())
		}
	}
}

func TestVersionsMoveAsCopies(t *testing.T) {
	k := example()
	staged, err := k.WithStaged(Version{Number: 4, Value: NewValue("four")})
	if err != nil || len(k.Versions) != 3 || staged.Versions[3].State != Staged {
		t.Fatalf("staged: %v", err)
	}
	if again, err := staged.WithStaged(Version{Number: 4, Value: NewValue("other")}); err != nil || again.Versions[3].Value.Reveal() != "four" {
		t.Error("staging twice changes the value")
	}
	retired, err := staged.Retired(3, 4)
	if err != nil || !retired.Versions[2].Value.Empty() || staged.Versions[2].Value.Empty() {
		t.Errorf("retired: %v", err)
	}
	reverted, err := staged.Reverted(3, 4)
	if err != nil || !reverted.Versions[3].Value.Empty() || reverted.Versions[2].State != Current {
		t.Errorf("reverted: %v", err)
	}
	if _, err := k.Promoted(3, 9); err == nil {
		t.Error("a version that is not there is promoted")
	}
	if _, err := k.WithFirst(Version{}); err == nil {
		t.Error("a key with versions gets a first one")
	}
}

// A server's value takes the place of the order that asked for it, and of no other.
func TestIssued(t *testing.T) {
	k, err := example().WithStaged(Version{Number: 4, Value: NewValue("order/1")})
	if err != nil {
		t.Fatal(err)
	}
	next, err := k.WithIssued(4, NewValue("order/1"), Version{Value: NewValue("order/2"), Fingerprint: "f"})
	if v, _ := next.Version(4); err != nil || v.Value.Reveal() != "order/2" || k.Versions[3].Value.Reveal() != "order/1" {
		t.Errorf("the next order: %v", err)
	}
	made := Version{Value: NewValue("made"), Handle: "id", Fingerprint: "f4"}
	if _, err := next.WithIssued(4, NewValue("order/1"), made); err == nil || strings.Contains(err.Error(), "made") {
		t.Errorf("the answer to an older order: %v", err)
	}
	issued, err := next.WithIssued(4, NewValue("order/2"), made)
	if v, _ := issued.Version(4); err != nil || v.Value.Reveal() != "made" || v.Handle != "id" || v.Fingerprint != "f4" || v.State != Staged {
		t.Errorf("the value: %v", err)
	}
	if _, err := issued.WithIssued(3, NewValue("three"), made); err == nil {
		t.Error("a version that is current gets another value")
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", "a/b", "A", "-a", "a-", "ä", "a b", strings.Repeat("a", 129)} {
		if ValidateName("key", name) == nil {
			t.Errorf("%q is allowed", name)
		}
	}
	for _, name := range []string{"a", "agent-service-token", "a.b_c9"} {
		if err := ValidateName("key", name); err != nil {
			t.Error(err)
		}
	}
	if err := ValidateEnv("lower"); err == nil {
		t.Error("lower-case env is allowed")
	}
}

func TestFingerprintPartsDoNotRunTogether(t *testing.T) {
	f := NewFingerprinter([]byte("secret"))
	if f.Sum("ab", "c") == f.Sum("a", "bc") {
		t.Error("parts run together")
	}
	if f.Of("k", NewValue("v")) == NewFingerprinter([]byte("other")).Of("k", NewValue("v")) {
		t.Error("the fingerprint is not keyed")
	}
}

// Whatever Decode accepts is written again as a record that reads the same.
func FuzzDecode(f *testing.F) {
	data, err := example().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"schema":1,"name":"a","versions":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := Decode(data)
		if err != nil {
			return
		}
		once, err := k.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(once)
		if err != nil {
			t.Fatalf("what was accepted is refused when written again: %v", err)
		}
		if twice, err := back.Encode(); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("written again differently: %v", err)
		}
	})
}
