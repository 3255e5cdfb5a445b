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
	"os"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/buildtags"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
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
