// SPDX-License-Identifier: Apache-2.0

package envelope

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// vector is one entry of testdata/envelopes.json, which the platform's own code made and read back.
type vector struct {
	Layout    key.Layout `json:"layout"`
	Secret    string     `json:"secret"`
	Plaintext string     `json:"plaintext"`
	Envelope  string     `json:"envelope"`
}

func vectors(t testing.TB) []vector {
	t.Helper()
	data, err := os.ReadFile("testdata/envelopes.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) < 16 {
		t.Fatalf("only %d vectors", len(all))
	}
	return all
}

func TestVectorsOpen(t *testing.T) {
	for i, v := range vectors(t) {
		e, err := Parse(v.Envelope)
		if err != nil {
			t.Fatalf("vector %d: %v", i, err)
		}
		if e.String() != v.Envelope {
			t.Errorf("vector %d: String gives another string", i)
		}
		ring, err := NewKeyring(v.Layout, key.NewValue(v.Secret))
		if err != nil {
			t.Fatalf("vector %d: %v", i, err)
		}
		got, err := ring.Open(e)
		if err != nil || string(got) != v.Plaintext {
			t.Errorf("vector %d does not open: %v", i, err)
		}
		if i%8 == 0 { // derivations are dear
			other := key.TagFirst
			if v.Layout == key.TagFirst {
				other = key.TagLast
			}
			d, _ := ring.Derive(e.Salt)
			if _, err := e.Open(other, d); !errors.Is(err, ErrKey) {
				t.Errorf("vector %d opens in the other layout: %v", i, err)
			}
		}
	}
}

// What we seal is opened by Node's crypto.
func TestNodeOpensWhatWeSeal(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Fatal("node is not installed; run scripts/setup (make test does)")
	}
	type item struct {
		Layout   key.Layout `json:"layout"`
		Secret   string     `json:"secret"`
		Envelope string     `json:"envelope"`
	}
	var items []item
	var want []string
	for _, v := range vectors(t) {
		ring, err := NewKeyring(v.Layout, key.NewValue(v.Secret))
		if err != nil {
			t.Fatal(err)
		}
		salt, err := NewSalt(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		d, err := ring.Derive(salt)
		if err != nil {
			t.Fatal(err)
		}
		e, err := Seal(v.Layout, d, salt, []byte(v.Plaintext), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		items, want = append(items, item{v.Layout, v.Secret, e.String()}), append(want, v.Plaintext)
	}
	input, err := json.Marshal(items)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "testdata/open.mjs")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), os.Stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := json.Unmarshal(output, &got); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("Node reads another plaintext of vector %d", i)
		}
	}
}

func TestSecretSaysWhatIsWrong(t *testing.T) {
	bytes := func(n int) []byte { return make([]byte, n) }
	for _, c := range []struct {
		layout key.Layout
		value  string
		want   string
	}{
		{key.TagFirst, "", "empty"},
		{key.TagFirst, base64.StdEncoding.EncodeToString(bytes(31)), "31 bytes"},
		{key.TagFirst, base64.StdEncoding.EncodeToString(bytes(33)), "33 bytes"},
		{key.TagFirst, "-" + base64.StdEncoding.EncodeToString(bytes(32))[1:], "url-safe"},
		{key.TagFirst, base64.RawStdEncoding.EncodeToString(bytes(32)), "padding"},
		{key.TagFirst, base64.StdEncoding.EncodeToString(bytes(32)) + "\n", "padding"},
		{key.TagLast, "\xff\xfe", "UTF-8"},
		{"tag-middle", "x", "tag-middle"},
	} {
		_, err := Secret(c.layout, key.NewValue(c.value))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %v, want something on %q", c.layout, c.value, err, c.want)
		}
		if err != nil && len(c.value) > 8 && strings.Contains(err.Error(), c.value) {
			t.Errorf("the error holds the value")
		}
	}
}

func TestMalformedIsRefused(t *testing.T) {
	good := vectors(t)[0].Envelope
	for name, text := range map[string]string{
		"empty": "", "short": base64.StdEncoding.EncodeToString(make([]byte, overhead)), "newline": good + "\n",
		"inner newline": good[:8] + "\n" + good[8:], "url-safe": strings.ReplaceAll(good, "+", "-"),
		"cut": good[:len(good)-1], "space": " " + good, "not base64": strings.Repeat("!", 200),
	} {
		if name == "url-safe" && text == good {
			continue
		}
		if _, err := Parse(text); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyringForgetsTheOldest(t *testing.T) {
	ring, err := NewKeyring(key.TagLast, key.NewValue("some secret"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxDerived * 2 {
		var s Salt
		s[0], s[1], s[2] = byte(i), byte(i>>8), byte(i>>16)
		ring.remember(s, Derived{})
	}
	if n := len(ring.recent) + len(ring.old); n > maxDerived {
		t.Errorf("%d derived keys are kept, want at most %d", n, maxDerived)
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	const canary = "canary-7f3c9a51"
	ring, err := NewKeyring(key.TagLast, key.NewValue(canary))
	if err != nil {
		t.Fatal(err)
	}
	d := Derived(bytes.Repeat([]byte{0xa7}, len(Derived{})))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		text := fmt.Sprintf(verb+" "+verb, ring, d)
		for _, secret := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%d", []byte(canary)), "a7a7", "167 167"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s prints %s", verb, text)
			}
		}
	}
}

// Whatever Parse accepts is written again as it was.
func FuzzParse(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.Envelope)
	}
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Parse(text)
		if err != nil {
			return
		}
		if e.String() != text {
			t.Errorf("%q is written again as %q", text, e.String())
		}
		if _, err := e.Open(key.TagFirst, Derived{}); err == nil {
			t.Error("opens under a key of zeros")
		}
	})
}
