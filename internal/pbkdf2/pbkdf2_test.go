// SPDX-License-Identifier: Apache-2.0

package pbkdf2

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// vectors are those of RFC 7914, section 11, cut to 32 bytes, and the inputs of RFC 6070, for which hashlib of Python
// returns these results with SHA-256.
var vectors = []struct {
	secret, salt string
	iterations   int
	want         string
}{
	{"passwd", "salt", 1, "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"},
	{"Password", "NaCl", 80000, "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"},
	{"password", "salt", 1, "120fb6cffcf8b32c43e7225256c4f837a86548c92ccc35480805987cb70be17b"},
	{"password", "salt", 2, "ae4d0c95af6b46d32d0adff928f06dd02a303f8ef3c251dfd6e2d85a95474c43"},
	{"password", "salt", 4096, "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a"},
	{
		"passwordPASSWORDpassword", "saltSALTsaltSALTsaltSALTsaltSALTsalt", 4096,
		"348c89dbcbd32b2f32d814b8116e84cf2b17347ebc1800181c4e2a1fb8dd53e1",
	},
	{"pass\x00word", "sa\x00lt", 4096, "89b69d0516f829893c696226650a86878c029ac13ee276509d5ae58b6466a724"},
}

func TestVectors(t *testing.T) {
	for _, i := range implementations() {
		t.Run(i.name, func(t *testing.T) {
			for _, v := range vectors {
				for n := 1; n <= i.width; n++ { // in each lane of each kernel
					jobs := slices.Repeat([]Job{{[]byte(v.secret), []byte(v.salt)}}, n)
					results := make([][Size]byte, n)
					if err := i.derive(jobs, v.iterations, results); err != nil {
						t.Fatal(err)
					}
					for lane, got := range results {
						if hex.EncodeToString(got[:]) != v.want {
							t.Errorf("lane %d of %d, %q/%q/%d: %x, want %s", lane, n, v.secret, v.salt, v.iterations, got, v.want)
						}
					}
				}
			}
		})
	}
	v := vectors[0]
	if got, err := Key([]byte(v.secret), []byte(v.salt), v.iterations); err != nil || hex.EncodeToString(got[:]) != v.want {
		t.Errorf("Key: %x, %v, want %s", got, err, v.want)
	}
}

// Every implementation returns what crypto/pbkdf2 returns, and each job its own, with any number of lanes empty.
func FuzzKeys(f *testing.F) {
	for n, size := range []int{0, 1, 31, 32, 33, 63, 64, 65, 200} {
		f.Add(make([]byte, size), []byte("salt"), int16(n), uint8(n), uint8(1))
		f.Add([]byte("secret"), make([]byte, size), int16(2), uint8(n), uint8(2))
	}
	for _, iterations := range []int16{-1, 0, 1, 2, 3, 999, 1000, 1001, 1002, 2001, 2002} {
		f.Add([]byte("secret"), []byte("salt"), iterations, uint8(4), uint8(1))
	}
	f.Fuzz(func(t *testing.T, secret, salt []byte, iterations int16, count, workers uint8) {
		iterations %= 3000
		workers = 1 + workers%3
		for _, i := range implementations() {
			jobs := make([]Job, int(count)%(2*i.width+2))
			for n := range jobs {
				jobs[n] = Job{Secret: slices.Repeat(secret, 1+n%3), Salt: append(slices.Clone(salt), make([]byte, n)...)}
			}
			got, err := i.spread(t.Context(), jobs, int(iterations), int(workers))
			if err != nil || len(got) != len(jobs) {
				t.Fatalf("%s: %d results of %d jobs, %v", i.name, len(got), len(jobs), err)
			}
			for n, j := range jobs {
				want, err := pbkdf2.Key(sha256.New, string(j.Secret), j.Salt, int(iterations), Size)
				if err != nil {
					t.Fatal(err)
				}
				if [Size]byte(want) != got[n] {
					t.Errorf("%s, job %d of %d, %d iterations: %x, want %x", i.name, n, len(jobs), iterations, got[n], want)
				}
			}
		}
	})
}

func TestKeysKeepsTheOrder(t *testing.T) {
	for _, n := range []int{0, 1, 2, 5, 17} {
		jobs := randomJobs(n)
		got, err := Keys(t.Context(), jobs, 10)
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

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		n, width, workers int
		want              []int
	}{
		{0, 4, 2, nil},
		{1, 4, 2, []int{1}},
		{2, 4, 2, []int{1, 2}},
		{3, 4, 2, []int{2, 3}},
		{3, 4, 1, []int{3}},
		{5, 1, 2, []int{1, 2, 3, 4, 5}},
		{8, 4, 2, []int{4, 8}},
		{9, 4, 2, []int{4, 8, 9}},
		{12, 4, 2, []int{4, 8, 10, 12}},
		{17, 4, 2, []int{4, 8, 12, 16, 17}},
		{17, 4, 64, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}},
	} {
		if got := split(c.n, c.width, c.workers); !slices.Equal(got, c.want) {
			t.Errorf("split(%d, %d, %d) ends at %v, want %v", c.n, c.width, c.workers, got, c.want)
		}
	}
}

func TestKeysEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	i := implementation{width: 2, derive: func([]Job, int, [][Size]byte) error {
		calls++
		cancel()
		return nil
	}}
	got, err := i.spread(ctx, randomJobs(10), 1, 1)
	if got != nil || !errors.Is(err, context.Canceled) || calls != 1 {
		t.Errorf("%d results, %v, after %d calls", len(got), err, calls)
	}
	if _, err := Keys(ctx, randomJobs(1), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended gives %v", err)
	}
}

func TestKeysFailsAsAWhole(t *testing.T) {
	refused := errors.New("refused")
	i := implementation{width: 2, derive: func(jobs []Job, _ int, _ [][Size]byte) error {
		if len(jobs[0].Secret) == 4 {
			return refused
		}
		return nil
	}}
	if got, err := i.spread(t.Context(), randomJobs(10), 1, 2); got != nil || !errors.Is(err, refused) {
		t.Errorf("%d results, %v", len(got), err)
	}
}

// randomJobs makes jobs whose secrets have the lengths 0, 1, 2 and so on.
func randomJobs(n int) []Job {
	jobs := make([]Job, n)
	for i := range jobs {
		jobs[i] = Job{Secret: randomBytes(i), Salt: randomBytes(64)}
	}
	return jobs
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// One core derives a group at once: ms/key is what a key costs.
func BenchmarkDerive(b *testing.B) {
	for _, i := range implementations() {
		for n := 1; n <= i.width; n++ {
			b.Run(fmt.Sprintf("%s/lanes=%d", strings.ReplaceAll(i.name, "/", "-"), n), func(b *testing.B) {
				jobs, results := randomJobs(n), make([][Size]byte, n)
				for b.Loop() {
					if err := i.derive(jobs, 100_000, results); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N*n), "ms/key")
			})
		}
	}
}

// All cores derive eight keys each.
func BenchmarkKeys(b *testing.B) {
	jobs := randomJobs(8 * runtime.GOMAXPROCS(0))
	for b.Loop() {
		if _, err := Keys(b.Context(), jobs, 100_000); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N*len(jobs)), "ms/key")
}
