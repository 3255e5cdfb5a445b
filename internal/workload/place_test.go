// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

func TestPlacesDiffer(t *testing.T) {
	p := Place{System: "7412345678901234567", Database: "hyvve", OID: 16384, Primary: true, Tables: []PlaceTable{{"t.c", 16400}, {"u.c", 16500}}}
	for name, c := range map[string]struct {
		change func(*Place)
		want   string
	}{
		"the same":         {func(*Place) {}, ""},
		"a replica":        {func(o *Place) { o.Primary = false }, ""},
		"no system":        {func(o *Place) { o.System = "" }, ""},
		"another system":   {func(o *Place) { o.System = "7412345678907654321" }, "database hyvve of system …234567 and database hyvve of system …654321"},
		"another database": {func(o *Place) { o.Database, o.OID = "copy", 16385 }, "database hyvve of system …234567 and database copy of system …234567"},
		"the same name":    {func(o *Place) { o.OID = 20000 }, "database hyvve of system …234567 (OID 16384) and another of that name (OID 20000)"},
		"another table":    {func(o *Place) { o.Tables = []PlaceTable{{"t.c", 16401}} }, "table 16400 and table 16401 for t.c"},
		"fewer tables":     {func(o *Place) { o.Tables = nil }, ""},
	} {
		o := p
		c.change(&o)
		if got := p.Differs(o); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
		if got := o.Differs(p); (got == "") != (c.want == "") {
			t.Errorf("%s, the other way: %q", name, got)
		}
	}
	columns := []key.Column{{Table: "t", Column: "c"}, {Schema: "public", Table: "u", Column: "c"}}
	if !p.Covers(columns) || p.Covers(append(columns, key.Column{Table: "v", Column: "c"})) {
		t.Error("covers")
	}
}
