// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
)

func main() {
	fmt.Println(strings.ToTitle("x"))
	_ = tabwriter.NewWriter(os.Stdout, 0, 0, 0, 0, 0)
}
