// SPDX-License-Identifier: Apache-2.0

//go:build (amd64 || arm64) && !purego

package pbkdf2

import "encoding/binary"

// lane is a derivation in the form in which the assembly reads and writes it. The order of the fields is known there.
type lane struct {
	start [2]state    // amd64 only: what the inner and the outer block start with, see before
	sum   [2][2]state // the states after the inner and the outer pad, from A to H; and with K of the first eight rounds added
	key   state       // exclusive or of all U so far
	u     state       // the last U
	_     state       // the assembly keeps parts of messages here
}

// kernel does that many iterations, at least one, of width derivations, which stand one behind the other.
type kernel struct {
	width   int
	iterate func(lanes *lane, iterations uint64)
}

// maxIterations bounds a call of a kernel, which the scheduler cannot interrupt: on amd64, 70 µs of one derivation, 110 µs
// of four.
const maxIterations = 1000

// kernels makes an implementation of some, the narrowest first.
func kernels(name string, some ...kernel) implementation {
	return implementation{
		name:  name,
		width: some[len(some)-1].width,
		derive: func(jobs []Job, iterations int, results [][Size]byte) error {
			k := some[0]
			for n := 1; k.width < len(jobs); n++ {
				k = some[n]
			}
			return k.derive(jobs, iterations, results)
		},
	}
}

func (k kernel) derive(jobs []Job, iterations int, results [][Size]byte) error {
	// The first iteration is the only one that sees the salt.
	if err := standard.derive(jobs, 1, results); err != nil {
		return err
	}
	lanes := make([]lane, k.width) // those without a job compute on zeros
	defer clear(lanes)
	for n, j := range jobs {
		lanes[n].load(j.Secret, results[n])
	}
	for done := 1; done < iterations; {
		n := min(iterations-done, maxIterations)
		k.iterate(&lanes[0], uint64(n)) //nolint:gosec // is positive
		done += n
	}
	for n := range jobs {
		results[n] = lanes[n].result()
	}
	return nil
}

// load sets a lane up after the first iteration, whose result is given.
func (l *lane) load(secret []byte, first [Size]byte) {
	inner, outer := pads(secret)
	states := [...]state{inner, outer}
	for n, h := range states {
		l.start[n] = h.before(&states[1-n])
		l.sum[n][0] = h
		for i := range h {
			l.sum[n][1][i] = h[i] + roundConstants[i]
		}
	}
	for i := range l.u {
		l.u[i] = binary.BigEndian.Uint32(first[4*i:])
	}
	l.key = l.u
}

// before returns the working variables that a block starts with whose message is the result of a block that started with
// other. Rounds 0 and 1 are given that result without the sum with other, and without K: G and H make up for it. G is what
// round 1 adds, and H what round 0 does, which takes back, too, what another G changes in Ch.
func (h *state) before(other *state) state {
	e, f, g := h[4], h[5], h[6]+other[1]+roundConstants[1]
	ch := func(g uint32) uint32 { return e&f ^ ^e&g }
	return state{f, e, h[1], h[0], h[7] + other[0] + roundConstants[0] + ch(h[6]) - ch(g), g, h[3], h[2]}
}

func (l *lane) result() (key [Size]byte) {
	for i, w := range l.key {
		binary.BigEndian.PutUint32(key[4*i:], w)
	}
	return key
}
