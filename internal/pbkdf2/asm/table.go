// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/big"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
)

// padding is words 8 to 15 of each block: 32 bytes of message after a block of 64 make 768 bits (FIPS 180-4, 5.1.1).
var padding = [8]uint32{0: 0x80000000, 7: 768}

// table is the constants in memory: K, to which the padding is added; the same of groups 2 and 3 with the upper half
// first; the padding.
type table struct{ base operand.Mem }

func (t table) k(group int) operand.Mem      { return t.base.Offset(slotSize * group) }
func (t table) upperK(group int) operand.Mem { return t.base.Offset(slotSize * (16 + group - 2)) }
func (t table) padding(group int) operand.Mem {
	return t.base.Offset(slotSize * (18 + group - 2))
}

func writeTable(c *build.Context) table {
	k := roundConstants()
	for i, w := range padding {
		k[8+i] += w
	}
	words := append([]uint32{}, k[:]...)
	for _, g := range []int{2, 3} {
		words = append(words, k[4*g+2], k[4*g+3], k[4*g], k[4*g+1])
	}
	words = append(words, padding[:]...)
	base := c.StaticGlobal("constants")
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	for i, w := range words {
		c.AddDatum(4*i, operand.U32(w))
	}
	return table{base}
}

// roundConstants are K of FIPS 180-4, 4.2.2: the first 32 bits of the fractional parts of the cube roots of the first 64
// primes.
func roundConstants() (k [64]uint32) {
	n := 0
	for p := int64(2); n < len(k); p++ {
		if big.NewInt(p).ProbablyPrime(0) { // exact for numbers this small
			k[n] = uint32(cubeRoot(p)) //nolint:gosec // the whole part is meant to go
			n++
		}
	}
	return k
}

// cubeRoot returns the cube root of p in units of 2^-32, rounded down.
func cubeRoot(p int64) uint64 {
	cube := new(big.Int).Lsh(big.NewInt(p), 96)
	low, high := uint64(0), uint64(1)<<36
	for high-low > 1 {
		middle := (low + high) / 2
		m := new(big.Int).SetUint64(middle)
		if m.Exp(m, big.NewInt(3), nil).Cmp(cube) <= 0 {
			low = middle
		} else {
			high = middle
		}
	}
	return low
}
