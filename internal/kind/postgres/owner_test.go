// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"slices"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// A role that has had its turn with the same settings keeps them; any other gets all of them again.
func TestLendKeepsWhatIsRight(t *testing.T) {
	o := owner{name: "app", connections: -1, version: 150000, settings: []setting{
		{name: "search_path", value: "app"}, {database: "db", name: "work_mem", value: "8MB"},
	}}
	right := known{Acts: []string{"other", "app"}, Settings: [][2]string{{"db", "work_mem=8MB"}, {"", "role=app"}, {"", "search_path=app"}}}
	for name, c := range map[string]struct {
		settings [][2]string
		acts     []string
		want     int // statements
	}{
		"as it was":       {right.Settings, right.Acts, 1},
		"written else":    {[][2]string{{"db", "work_mem=8MB"}, {"", "role=app"}, {"", `search_path= "app"`}}, right.Acts, 1},
		"no member":       {right.Settings, nil, 2},
		"other value":     {[][2]string{{"db", "work_mem=9MB"}, {"", "role=app"}, {"", "search_path=app"}}, right.Acts, 6},
		"one too many":    {append(slices.Clone(right.Settings), [2]string{"", "work_mem=8MB"}), right.Acts, 6},
		"acts as another": {[][2]string{{"db", "work_mem=8MB"}, {"", "role=other"}, {"", "search_path=app"}}, right.Acts, 6},
		"none":            {nil, right.Acts, 4},
	} {
		got := o.lend(map[string]known{"app_a": {Acts: c.acts, Settings: c.settings}}, "app_a", "SCRAM")
		if len(got) != c.want || !strings.HasPrefix(got[0], "ALTER ROLE") {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := o.lend(nil, "app_a", "SCRAM"); len(got) != 5 || !strings.HasPrefix(got[0], "CREATE ROLE") {
		t.Errorf("a new role: %v", got)
	}
}

// A login role that gets its next turn under another owner may not act as the former one any more.
func TestFormerOwnerIsTakenAway(t *testing.T) {
	for _, superuser := range []bool{true, false} {
		w := newWorld(t, "", nil)
		owners := []string{w.app, w.app + "_second"}
		w.exec("CREATE ROLE " + owners[1])
		if !superuser {
			w.administrator(w.app + "_root")
			w.exec("GRANT " + strings.Join(owners, ", ") + " TO " + w.app + "_root WITH ADMIN OPTION")
		}
		c := w.next(w.first)
		for n := range 2 * len(roleNames.Suffixes) {
			owner := owners[n/len(roleNames.Suffixes)]
			c.Key.Options = kind.Options{kind.OptionConnection: "main", optionOwner: owner}
			w.ok(w.kind.Stage(t.Context(), c))
			role, err := w.kind.Login(c.To.Value)
			w.ok(err)
			var member string
			w.ok(w.dial(w.admin).QueryRow(t.Context(), "SELECT string_agg(roleid::regrole::text, ',') FROM pg_auth_members WHERE member = $1::regrole", role).Scan(&member))
			if member != owner {
				t.Errorf("version %d of owner %s is a member of %s", c.To.Number, owner, member)
			}
			w.ok(w.kind.Retire(t.Context(), c))
			c = w.next(c.To)
		}
	}
}
