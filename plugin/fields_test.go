// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestParametersOfAWrongTypeAreNotQuoted(t *testing.T) {
	b := hyvve(t)
	b.write("keys/empty", map[string]any{"format": "hex"})
	b.instance("api", "api-1")
	const canary = "canary-of-a-secret"
	type fields = map[string]any
	const update, read = logical.UpdateOperation, logical.ReadOperation
	for _, c := range []struct {
		operation logical.Operation
		path      string
		data      fields
		want      string
	}{
		{update, "rotate", fields{"key": "jwt-secret", "value": []any{canary}}, `parameter "value" is not text`},
		{update, "rotate/jwt-secret", fields{"value": fields{"a": canary}}, `parameter "value" is not text`},
		{update, "rotate", fields{"keys": []any{"jwt-secret", fields{"a": canary}}}, `parameter "keys" is not a list of names; write them with commas between`},
		{update, "rotate", fields{"key": "jwt-secret", "dry_run": canary}, `parameter "dry_run" is not true or false`},
		{update, "rotate", fields{"key": "jwt-secret", "wait": canary}, `parameter "wait" is not a duration, or is negative; write one such as 30s`},
		{update, "rotate", fields{"key": "jwt-secret", "wait": "-1s"}, `parameter "wait" is not a duration, or is negative`},
		{update, "keys/empty", fields{"value": []any{canary}}, `parameter "value" is not text`},
		{update, "keys/new", fields{"value": []any{canary}}, `parameter "value" is not text`},
		{update, "keys/empty", fields{"soak": canary}, `parameter "soak" is not a duration; write one`},
		{update, "config", fields{"look_every": "500ms"}, `parameter "look_every" is shorter than a second`},
		{update, "keys/empty", fields{"observe": "999ms"}, `parameter "observe" is shorter than a second`},
		{update, "keys/empty", fields{"soak": ""}, `parameter "soak" is empty, which would count as 0 or false; write a duration such as 30s`},
		{update, "config", fields{"observe": ""}, `parameter "observe" is empty`},
		{update, "rotate", fields{"key": "jwt-secret", "dry_run": ""}, `parameter "dry_run" is empty, which would count as 0 or false; write true or false`},
		{update, "rotations/latest/compromised", fields{"which": ""}, `which is empty; use old`},
		{update, "workloads/api", fields{"min_instances": ""}, `parameter "min_instances" is empty`},
		{update, "connections/x", fields{"kind": "postgres", "password": []any{canary}}, `parameter "password" is not text`},
		{update, "workloads/api", fields{"min_instances": canary}, `parameter "min_instances" is not a whole number`},
		{update, "report/api", fields{"instance": "api-1", "instance_secret": []any{canary}, "healthy": true}, `parameter "instance_secret" is not text`},
		{update, "report/api", fields{"instance": "api-1", "instance_secret": canary, "healthy": 7}, `parameter "healthy" is not true or false; write one of them`},
		{update, "report/api", fields{"instance": "api-1", "instance_secret": canary, "healthy": json.Number("7")}, `parameter "healthy" is not true or false`},
		{update, "report/api", fields{"instance": "api-1", "instance_secret": canary, "healthy": 0.5}, `parameter "healthy" is not true or false`},
		{update, "report/api", fields{"instance": "api-1", "instance_secret": canary, "healthy": "7"}, `parameter "healthy" is not true or false`},
		{update, "report/api", fields{"instance": "api-1", "instance_secret": canary, "healthy": true, "last": -1}, `parameter "last" is not true or false`},
		{update, "rotate", fields{"key": "jwt-secret", "compromised": 2}, `parameter "compromised" is not true or false`},
		{update, "workloads/api", fields{"min_instances": true}, `parameter "min_instances" is not a whole number`},
		{update, "workloads/api", fields{"min_instances": 2.5}, `parameter "min_instances" is not a whole number`},
		{read, "watch/api", fields{"instance": "api-1", "wait": canary}, `parameter "wait" is not a duration`},
	} {
		b.refuses(c.operation, c.path, c.data, c.want)
	}
	if said := b.answers.String() + b.log.String(); strings.Contains(said, canary) || said == "" {
		t.Errorf("a value stands in an answer or the log, or there is none: %d bytes", len(said))
	}
}

func TestEveryTypeOfParameterHasWords(t *testing.T) {
	b := newBackendTest(t)
	for _, path := range b.backend.(*backend).Paths {
		for name, schema := range path.Fields {
			if strings.HasPrefix(wanted(schema.Type), "of the type") {
				t.Errorf("%s: nothing says what %s takes", path.Pattern, name)
			}
		}
	}
}
