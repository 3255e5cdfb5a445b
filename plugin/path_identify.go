// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

func (b *backend) pathsIdentify() []*framework.Path {
	attempt := func(*engine.Engine, *framework.FieldData) journal.Entry {
		return journal.Entry{What: "identifying a value"}
	}
	return []*framework.Path{{
		Pattern: "identify",
		Fields:  requestFields(api.IdentifyRequest{}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.write(b.identify, attempt, oneOf{api.IdentifiedLines{}, api.Identified{}}, "identify", "value", "Find out which key and version a value is."),
		},
		HelpSynopsis: "Find out which key and version a value is that somebody has found.",
		HelpDescription: strings.TrimSpace(`
Somebody has found a value in a chat, a log or a repository. This says whether this mount has ever issued it, as which version of
which key, whether anything accepts it now, which instances hold it, and which command to run next. It knows every version that
was ever issued, also when its value is erased and its key deleted. It knows the password of a URL, too, and takes a line of a .env
file, a header or a URL that holds the value.

    pbpaste | vault write hyvve/identify value=- reason="in #support, 14:02"
    vault write -format=json hyvve/identify value=- detailed=true

The request is journaled, without the value. A caller may identify 30 values in a minute, and all callers together 120.
`),
	}}
}

func (b *backend) identify(ctx context.Context, e *engine.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := request[api.IdentifyRequest](d)
	all, err := e.Identify(ctx, key.NewValue(r.Value), r.Reason, caller(req))
	if err != nil {
		return nil, err
	}
	if r.Detailed {
		answered := api.Identified{Ours: len(all) > 0, Matches: []api.IdentifiedValue{}}
		for _, i := range all {
			answered.Matches = append(answered.Matches, identifiedFields(i))
		}
		return answer(answered), nil
	}
	return &logical.Response{Data: identifiedLines(all)}, nil
}

func identifiedFields(i engine.Identified) api.IdentifiedValue {
	return api.IdentifiedValue{
		Key: i.Key, Env: i.Env, Version: i.Number, Part: i.Part, State: string(i.State), Created: api.Time{Time: i.Created}, CreatedBy: i.CreatedBy,
		Rotation: i.Rotation, Connection: i.Connection, Accepted: i.Accepted, Where: i.Where,
		Holders: append([]string{}, i.Holders...), MoreHolders: i.More, Do: append([]string{}, i.Do...),
	}
}

// identifiedLines are lines for people, in the order in which they sort.
func identifiedLines(all []engine.Identified) map[string]any {
	if len(all) == 0 {
		return map[string]any{"ours": "no: this mount has never issued it, and does not log in with it. If hyvve is mounted elsewhere, too, ask there"}
	}
	lines := map[string]any{"ours": "yes"}
	for n, i := range all {
		line := func(name, text string) { lines[fmt.Sprintf("value_%02d_%s", n+1, name)] = text }
		if i.Connection == "" {
			line("1_is", identifiedAs(i))
		}
		accepted := "no: "
		if i.Accepted {
			accepted = "YES: "
		}
		line("2_accepted", accepted+i.Where)
		if len(i.Holders) > 0 {
			text := strings.Join(i.Holders, ", ")
			if i.More > 0 {
				text += fmt.Sprintf(" and %d more", i.More)
			}
			line("3_held_by", text)
		}
		for step, command := range i.Do {
			line(fmt.Sprintf("4_do_%d", step+1), command)
		}
		if len(i.Do) == 0 {
			line("4_do", "nothing at this mount; find out who published it")
		}
	}
	return lines
}

func identifiedAs(i engine.Identified) string {
	text := fmt.Sprintf("version %d of %s (key %s)", i.Number, i.Env, i.Key)
	if i.Part != "" {
		text = "the " + i.Part + " in " + text
	}
	if i.State != "" {
		text += ", " + string(i.State)
	}
	text += ", made at " + api.Time{Time: i.Created}.String()
	if i.CreatedBy != "" {
		text += " by " + i.CreatedBy
	}
	if i.Rotation != "" {
		text += " in rotation " + i.Rotation
	}
	return text
}
