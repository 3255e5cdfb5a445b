// SPDX-License-Identifier: Apache-2.0

package pbkdf2

import (
	"crypto/rand"
	"encoding/hex"
	"testing"
)

// The vectors of RFC 7914, section 11, cut to 32 bytes.
func TestVectors(t *testing.T) {
	for _, v := range []struct {
		secret, salt string
		iterations   int
		want         string
	}{
		{"passwd", "salt", 1, "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"},
		{"Password", "NaCl", 80000, "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"},
	} {
		got, err := Key([]byte(v.secret), []byte(v.salt), v.iterations)
		if err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(got[:]) != v.want {
			t.Errorf("%s/%s/%d: %x, want %s", v.secret, v.salt, v.iterations, got, v.want)
		}
	}
}

func TestKeysKeepsTheOrder(t *testing.T) {
	for _, n := range []int{0, 1, 2, 5, 17} {
		jobs := make([]Job, n)
		for i := range jobs {
			jobs[i] = Job{Secret: randomBytes(i), Salt: randomBytes(64)}
		}
		got, err := Keys(jobs, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != n {
			t.Fatalf("%d results of %d jobs", len(got), n)
		}
		for i, j := range jobs {
			if want, _ := Key(j.Secret, j.Salt, 10); got[i] != want {
				t.Errorf("job %d of %d has the result of another", i, n)
			}
		}
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func BenchmarkKey(b *testing.B) {
	secret, salt := randomBytes(32), randomBytes(64)
	for b.Loop() {
		if _, err := Key(secret, salt, 100_000); err != nil {
			b.Fatal(err)
		}
	}
}
