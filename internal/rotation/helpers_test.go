// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var (
	testActorZZ = Actor{Name: "test"}
	annZZ       = Actor{Name: "ann", Entity: "e-ann"}
	bobZZ       = Actor{Name: "bob", Entity: "e-bob"}
	nobodyZZ    = Actor{Name: "root"}

	goodZZ = workload.ColumnReport{Column: "t.c", Total: 3, Rotated: 3}
)

const maxReasonZZ = 1024 // bytes that an instance may report as a reason

func refusedZZ(err error) bool {
	var r *Refused
	return errors.As(err, &r)
}

func hereZZ() *workload.Place {
	return &workload.Place{System: "7412345678901234567", Database: "hyvve", OID: 16384, Primary: true, Tables: []workload.PlaceTable{{Column: "t.c", OID: 16400}}}
}

// floodZZ is a report with as much text as the engine lets through, all of it longer when it is stored.
func floodZZ(opened int) workload.WorkReport {
	r := workload.WorkReport{Done: true, Place: hereZZ(), Columns: []workload.ColumnReport{goodZZ}}
	for n := range 256 {
		r.Finds = append(r.Finds, workload.Find{Column: fmt.Sprintf("%03d%s", n, strings.Repeat("<", 250)), Shaped: 1, Tried: 1, Opened: opened})
		r.Unseen = append(r.Unseen, strings.Repeat("&", 256))
	}
	return r
}
