// SPDX-License-Identifier: Apache-2.0

// Command asm writes ../kernel_*.s: the iterations of PBKDF2-HMAC-SHA256 in the SHA instructions of x86 processors (Intel
// SDM, volume 2: SHA256RNDS2, SHA256MSG1, SHA256MSG2) and in those of ARMv8. It is a module of its own, so that the
// product does not require what generates its assembly.
//
// An iteration hashes 32 bytes twice, each time as the one block behind a block that never changes: HMAC's inner and
// outer states are given, and eight of the sixteen words of each message are constant (padding and length). The code
// keeps to that shape: both blocks in one turn of the loop; the state of one is the message of the next, so that no byte
// is swapped; of the message schedule only what is not constant. On x86, the chain on which everything waits is
// 32 SHA256RNDS2 and one shuffle a block, 129 cycles where an SHA256RNDS2 takes four: the sum at the end of a block and the constants of
// the next one's first two rounds are in the values that these start with.
package main

import (
	"errors"
	"fmt"
	"math/big"
	"os"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/buildtags"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	files, err := generate()
	for name, text := range files {
		err = errors.Join(err, os.WriteFile(name, text, 0o644)) //nolint:gosec // a source file
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "asm:", err)
		os.Exit(1)
	}
}

// generate returns the files and their texts.
func generate() (map[string][]byte, error) {
	amd64, err := generateAMD64()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"../kernel_amd64.s": amd64, "../kernel_arm64.s": generateARM64()}, nil
}

func generateAMD64() ([]byte, error) {
	c := build.NewContext()
	c.Constraint(buildtags.Not("purego"))
	writeCPUID(c)
	t := writeTable(c)
	for _, width := range widths {
		writeKernel(c, t, width)
	}
	file, err := c.Result()
	if err != nil {
		return nil, err
	}
	if err := pass.Compile.Execute(file); err != nil {
		return nil, err
	}
	text, err := printer.NewGoAsm(printer.Config{Name: "make generate", Pkg: "pbkdf2"}).Print(file)
	return append([]byte("// SPDX-License-Identifier: Apache-2.0\n\n"), text...), err
}

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

// writeCPUID writes the function that reports whether the processor has the SHA instructions: bit 29 of EBX in leaf 7 of
// CPUID (Intel SDM, volume 2A).
func writeCPUID(c *build.Context) {
	c.Function("hasSHA")
	c.Attributes(attr.NOSPLIT)
	c.SignatureExpr("func() bool")
	c.XORL(reg.EAX, reg.EAX)
	c.CPUID()
	c.XORL(reg.EBX, reg.EBX)
	c.CMPL(reg.EAX, operand.U8(7))
	c.JB(operand.LabelRef("done"))
	c.MOVL(operand.U32(7), reg.EAX)
	c.XORL(reg.ECX, reg.ECX)
	c.CPUID()
	c.Label("done")
	c.SHRL(operand.U8(29), reg.EBX)
	c.ANDL(operand.U8(1), reg.EBX)
	c.Store(reg.BL, c.ReturnIndex(0))
	c.RET()
}
