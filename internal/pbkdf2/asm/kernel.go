// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// widths are the numbers of derivations at once for which there is a kernel. Three are left to the kernel of four: one of
// their own would do them in 0.84 of the time. Five do not have enough registers for their states.
var widths = []int{1, 2, 4}

// The slots of a lane, 16 bytes each: the fields of type lane in ../lanes.go. Each field has two slots, or pairs of pairs,
// first those of the inner block.
const (
	start = 0 // working variables to start from: ABEF, CDGH
	sum   = 4 // what makes a message of a block's result when it is added; then what makes a message plus K
	key   = 12
	u     = 14
	spill = 16
	slots = 18

	slotSize = 16
)

// kernel writes the function of one width for x86. It uses VEX instructions where they exist: they need no copies, and do
// not mind how memory is aligned.
type kernel struct {
	*build.Context
	table
	ptr   reg.GPVirtual
	spill bool // of the message, only the last block made is in registers
}

// lane is one derivation.
type lane struct {
	*kernel
	base   int               // of its slots
	s0, s1 reg.VecVirtual    // working variables ABEF and CDGH
	m      [4]reg.VecVirtual // message blocks (four words) by their number modulo 4
}

func (l *lane) slot(n int) operand.Mem {
	return operand.Mem{Base: l.ptr, Disp: l.base + slotSize*n}
}

// spilled is where message block i is in memory.
func (l *lane) spilled(i int) operand.Mem {
	return l.slot([4]int{u, u + 1, spill, spill + 1}[i%4])
}

func writeKernel(c *build.Context, t table, width int) {
	name := fmt.Sprintf("iterate%d", width)
	c.Function(name)
	c.Attributes(attr.NOSPLIT)
	c.SignatureExpr("func(lanes *byte, iterations uint64)")
	k := &kernel{Context: c, table: t, ptr: c.GP64(), spill: width > 2}
	c.Load(c.Param("lanes"), k.ptr)
	left := c.GP64()
	c.Load(c.Param("iterations"), left)
	c.Comment("SHA instructions would wait for what others left in the upper halves of registers.")
	c.VZEROUPPER()
	lanes := make([]*lane, width)
	for n := range lanes {
		lanes[n] = &lane{kernel: k, base: slots * slotSize * n, s0: c.XMM(), s1: c.XMM()}
		lanes[n].enter()
	}
	c.Label(name + "next")
	for which, text := range []string{"Inner block, from round 8", "Outer block, from round 8"} {
		c.Comment(text)
		for g := 2; g < 16; g++ {
			for _, l := range lanes {
				l.group(g)
			}
		}
		c.Comment("The end of that block, and rounds 0 to 7 of the next")
		for _, l := range lanes {
			l.turn(which)
		}
	}
	c.DECQ(left)
	c.JNE(operand.LabelRef(name + "next"))
	if !k.spill {
		for _, l := range lanes {
			c.VMOVDQU(l.m[0], l.slot(u))
			c.VMOVDQU(l.m[1], l.slot(u+1))
		}
	}
	c.RET()
}

// rounds does four rounds. X0 holds the sums of message and K of the first two in its lower half; second moves those of
// the others there. What does not depend on the rounds stands between, where they wait.
func (l *lane) rounds(between, second func()) {
	l.SHA256RNDS2(reg.X0, l.s0, l.s1)
	between()
	second()
	l.SHA256RNDS2(reg.X0, l.s1, l.s0)
}

func (l *lane) upper() { l.VPSHUFD(operand.U8(0x0e), reg.X0, reg.X0) }

func nothing() {}

// enter begins the first inner block, whose message is the U in memory, as if an outer block had ended with it.
func (l *lane) enter() {
	var raw [2]reg.VecVirtual
	for i := range raw {
		raw[i] = l.XMM()
		l.VMOVDQU(l.slot(u+i), raw[i])
		l.VPSUBD(l.slot(sum+4+i), raw[i], raw[i])
	}
	if !l.spill {
		for i := range l.m {
			l.m[i] = l.XMM()
		}
	}
	l.begin(0, raw, func(int) {})
}

// turn ends a block and begins the next one, whose message is the result: of the inner block (0), which is the outer
// one's message, or of the outer (1), which is the next U.
func (l *lane) turn(which int) {
	var raw [2]reg.VecVirtual
	for i, order := range []operand.U8{0xbb, 0x11} {
		raw[i] = l.XMM()
		l.VSHUFPS(order, l.s1, l.s0, raw[i])
	}
	l.begin(1-which, raw, func(i int) {
		if which == 1 {
			t := l.XMM()
			l.VPXOR(l.slot(key+i), l.message(i, raw), t)
			l.VMOVDQU(t, l.slot(key+i))
		}
	})
}

// message is where the first half (0) or the second of a message is made of what a block gave.
func (l *lane) message(i int, raw [2]reg.VecVirtual) reg.VecVirtual {
	if l.spill {
		return raw[i]
	}
	return l.m[i]
}

// begin does rounds 0 to 7 of the inner block (0) or the outer, whose message is what the other gave: raw is its working
// variables, A to D and E to H, before the sum. Rounds 0 and 1 take them as they are, for the block's G and H make up for
// that: everything waits for these rounds, and they for nothing but the order of raw.
func (l *lane) begin(which int, raw [2]reg.VecVirtual, then func(i int)) {
	other := sum + 4*(1-which)
	l.VMOVDQU(l.slot(start+2*which), l.s0)
	l.VMOVDQU(l.slot(start+2*which+1), l.s1)
	for i := range raw {
		withK := func() { l.VPADDD(l.slot(other+2+i), raw[i], reg.X0) }
		if i == 0 {
			l.VMOVDQA(raw[i], reg.X0)
		} else {
			withK()
		}
		l.rounds(func() {
			if i == 0 {
				withK()
			}
			m := l.message(i, raw)
			l.VPADDD(l.slot(other+i), raw[i], m)
			if l.spill {
				l.VMOVDQU(m, l.spilled(i))
			}
			then(i)
		}, l.upper)
	}
}

// group does rounds 4g to 4g+3 of a block, and makes message block g+1.
func (l *lane) group(g int) {
	switch g {
	case 2, 3:
		between := nothing
		if g == 3 {
			between = l.first
		}
		l.VMOVDQU(l.k(g), reg.X0)
		l.rounds(between, func() { l.VMOVDQU(l.upperK(g), reg.X0) })
	case 15:
		l.VPADDD(l.k(g), l.m[g%4], reg.X0)
		l.rounds(nothing, l.upper)
	default:
		l.VPADDD(l.k(g), l.m[g%4], reg.X0)
		l.rounds(func() { l.schedule(g) }, l.upper)
	}
}

// first makes message block 4, and prepares block 1 for block 5. Words 9 to 12, a summand, are zero.
func (l *lane) first() {
	if l.spill {
		l.m[0], l.m[1] = l.XMM(), l.XMM()
		l.VMOVDQU(l.spilled(0), l.m[0])
		l.VMOVDQU(l.spilled(1), l.m[1])
	}
	l.SHA256MSG1(l.m[1], l.m[0])
	constant := l.XMM()
	l.VMOVDQU(l.padding(3), constant)
	l.SHA256MSG2(constant, l.m[0])
	constant = l.XMM()
	l.VMOVDQU(l.padding(2), constant)
	l.SHA256MSG1(constant, l.m[1])
	if l.spill {
		l.VMOVDQU(l.m[1], l.spilled(1))
	}
}

// schedule makes message block g+1 of block g-3, which was prepared; then it prepares block g-1 for block g+3.
func (l *lane) schedule(g int) {
	current, previous, next := g%4, (g+3)%4, (g+1)%4

	var before operand.Op = l.m[previous]
	if g == 4 {
		before = l.padding(3)
	} else if l.spill {
		before = l.spilled(previous)
	}
	words := l.XMM() // 4g-3 to 4g
	l.VPALIGNR(operand.U8(4), before, l.m[current], words)

	var prepared operand.Op = l.m[next]
	if g == 5 {
		prepared = l.padding(2) // its preparation adds functions of zeros
	} else if l.spill {
		prepared = l.spilled(next)
	}
	if l.spill {
		l.m[next] = words
	}
	l.VPADDD(prepared, words, l.m[next])
	l.SHA256MSG2(l.m[current], l.m[next])

	if g <= 12 {
		if l.spill {
			l.m[previous] = l.XMM()
		}
		if l.spill || g == 4 {
			l.VMOVDQU(before, l.m[previous])
		}
		l.SHA256MSG1(l.m[current], l.m[previous])
		if l.spill {
			l.VMOVDQU(l.m[previous], l.spilled(previous))
		}
	}
	if l.spill && g <= 13 {
		l.VMOVDQU(l.m[current], l.spilled(current))
	}
}
