// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
)

// A request for all keys is answered with what it leaves out and which rotations run already, also where it starts none and waits; the
// rotation and its receipt say so, too.
func TestAnswersOnAllKeys(t *testing.T) {
	b := hyvve(t)
	b.write("keys/partner", map[string]any{"kind": "external", "value": "from-a-partner"})
	asked := map[string]any{"keys": "all", "compromised": true}
	first := b.write("rotate", asked)
	id := first["id"].(string)
	names, _ := first["keys"].([]string)
	if len(names) == 0 || !strings.Contains(first["left_out_01"].(string), "vault write hyvve/rotate key=partner compromised=true value=-") {
		t.Errorf("%v", first)
	}
	for _, name := range platform.Keys(platform.Servers{}) { // those that protect rows rotate beside, since nobody has counted them
		if len(name.Protects) > 0 && !strings.Contains(first["with_01"].(string), name.Name) {
			t.Errorf("%s is not in %v", name.Name, first["with_01"])
		}
	}
	asked["wait"] = "1s"
	again := b.call(logical.UpdateOperation, "rotate", asked)
	warned := strings.Join(again.Warnings, "\n")
	if again.IsError() || again.Data["left_out_01"] != first["left_out_01"] || !strings.Contains(again.Data["with_02"].(string), "is compromised already, and continues") ||
		!strings.Contains(warned, "keys=all leaves out partner") || !strings.Contains(warned, id) {
		t.Errorf("%v warns: %s", again.Data, warned)
	}
	if read := b.call(logical.ReadOperation, "rotations/"+id, map[string]any{"detailed": false}).Data; read["left_out_01"] != first["left_out_01"] || read["with_01"] != first["with_01"] {
		t.Errorf("%v", read)
	}
	text := ""
	for _, line := range b.read("rotations/" + id + "/receipt").Data {
		text += line.(string) + "\n"
	}
	if !strings.Contains(text, "left out: key partner: its values come from elsewhere") || !strings.Contains(text, "the same request is about rotation") {
		t.Errorf("the receipt is %s", text)
	}
	b.refuses(logical.UpdateOperation, "rotate", map[string]any{"keys": "all,jwt-secret"}, "keys=all stands for every key; leave out jwt-secret")
	b.refuses(logical.UpdateOperation, "rotate", map[string]any{"key": "all"}, "to rotate every key, write keys=all")
	b.refuses(logical.UpdateOperation, "rotate", map[string]any{"keys": "all", "value": "x"}, "value is for one key")
}
