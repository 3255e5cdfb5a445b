// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var (
	testActor = Actor{Name: "test"}
	ann       = Actor{Name: "ann", Entity: "e-ann"}
	bob       = Actor{Name: "bob", Entity: "e-bob"}
	nobody    = Actor{Name: "root"}

	good = workload.ColumnReport{Column: "t.c", Total: 3, Rotated: 3}
)

const maxReason = 1024 // bytes that an instance may report as a reason

func refused(err error) bool {
	var r *Refused
	return errors.As(err, &r)
}

func here() *workload.Place {
	return &workload.Place{System: "7412345678901234567", Database: "hyvve", OID: 16384, Primary: true, Tables: []workload.PlaceTable{{Column: "t.c", OID: 16400}}}
}

// flood is a report with as much text as the engine lets through, all of it longer when it is stored.
func flood(opened int) workload.WorkReport {
	r := workload.WorkReport{Done: true, Place: here(), Columns: []workload.ColumnReport{good}}
	for n := range 256 {
		r.Finds = append(r.Finds, workload.Find{Column: fmt.Sprintf("%03d%s", n, strings.Repeat("<", 250)), Shaped: 1, Tried: 1, Opened: opened})
		r.Unseen = append(r.Unseen, strings.Repeat("&", 256))
	}
	return r
}
