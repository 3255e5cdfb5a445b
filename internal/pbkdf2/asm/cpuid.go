// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

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
