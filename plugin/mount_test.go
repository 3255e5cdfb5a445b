// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// No answer, refusal, warning or help of an engine that is mounted elsewhere names a path below hyvve/: a pasted command would act
// on another engine. Only the journal says what was said then.
func TestAnswersNameTheirMount(t *testing.T) {
	g := goldenFreshAt(t, "prod/rotation/")
	elsewhere := regexp.MustCompile(`.{0,60}(^|[^/\w])hyvve/[a-z]+.{0,20}`)
	named := 0
	for _, c := range g.calls {
		if first, _, _ := strings.Cut(c.path, "/"); c.response == nil || first == "journal" || first == "creds" {
			continue
		}
		text, err := json.Marshal(map[string]any{"data": c.response.Data, "warnings": c.response.Warnings})
		if err != nil {
			t.Fatal(err)
		}
		named += strings.Count(string(text), "prod/rotation/")
		if found := elsewhere.FindString(string(text)); found != "" && c.path != "presets/hyvve" {
			t.Errorf("%s %s: %s", c.operation, c.path, found)
		}
	}
	if named < 10 {
		t.Errorf("the mount is named %d times", named)
	}
	help := g.call(logical.HelpOperation, "rotate", nil)
	if text := fmt.Sprint(help.Data["help"]); strings.Contains(text, "hyvve/") || !strings.Contains(text, "vault write prod/rotation/rotate key=") {
		t.Errorf("help: %s", text)
	}
}

func TestMountIsReplacedInPathsAlone(t *testing.T) {
	m := mountedText{enginePaths(newBackend(nil).Paths), "a$1/hyvve"}
	for text, want := range map[string]string{
		"vault read hyvve/rotations/x":         "vault read a$1/hyvve/rotations/x",
		"hyvve/keys":                           "a$1/hyvve/keys",
		"(hyvve/config)":                       "(a$1/hyvve/config)",
		"hyvve/presets/hyvve":                  "a$1/hyvve/presets/hyvve",
		"b/hyvve/keys":                         "b/hyvve/keys",
		"hyvve/hyvve-sidecar":                  "hyvve/hyvve-sidecar",
		"vault write hyvve/keys/a; hyvve/keys": "vault write a$1/hyvve/keys/a; a$1/hyvve/keys",
	} {
		if got := m.of(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	b := newBackend(nil)
	req := &logical.Request{Path: "watch/api", MountPoint: "other/"}
	_, err := b.mounted(req, nil, logical.CodedError(429, "ask hyvve/watch/api later"))
	if coded := logical.HTTPCodedError(nil); !errors.As(err, &coded) || coded.Code() != 429 || err.Error() != "ask other/watch/api later" {
		t.Errorf("%v", err)
	}
	if _, err := b.mounted(req, nil, fmt.Errorf("hyvve/status: %w", logical.ErrReadOnly)); !errors.Is(err, logical.ErrReadOnly) || !strings.HasPrefix(err.Error(), "other/status") {
		t.Errorf("%v", err)
	}
	resp, _ := b.mounted(&logical.Request{Path: "creds/api", MountPoint: "other/"}, &logical.Response{Data: map[string]any{"values": map[string]any{"X": "hyvve/keys"}}}, nil)
	if fmt.Sprint(resp.Data) != "map[values:map[X:hyvve/keys]]" {
		t.Errorf("a value has changed: %v", resp.Data)
	}
	resp, _ = b.mounted(&logical.Request{Path: "rotations/x/receipt", MountPoint: "other/"}, &logical.Response{Data: map[string]any{"evidence_json": "confirm: vault write hyvve/rotations/x/confirm"}}, nil)
	if resp.Data["evidence_json"] != "confirm: vault write hyvve/rotations/x/confirm" {
		t.Errorf("the evidence does not have the digest any more that the journal has: %v", resp.Data)
	}
}
