// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// accessKeys is a provider of pairs of id and value, which it does not name. All that is known of it is in its answers.
type accessKeys struct {
	mu    sync.Mutex
	pairs [][2]string
	lose  int // so many answers to a creation are lost
}

func (p *accessKeys) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, value, _ := r.BasicAuth()
	user, answer := r.URL.Query().Get("UserName"), map[string]any{}
	switch action := r.URL.Query().Get("Action"); {
	case action == "Who":
		if !slices.Contains(p.pairs, [2]string{id, value}) {
			w.WriteHeader(http.StatusForbidden)
		}
		return
	case r.Header.Get("X-Admin-Token") != "canary-admin" || user != "deploy":
		w.WriteHeader(http.StatusForbidden)
		return
	case action == "CreateAccessKey":
		pair := [2]string{"AK" + rand.Text()[:8], "canary-" + rand.Text()}
		p.pairs = append(p.pairs, pair)
		if p.lose > 0 {
			p.lose--
			panic(http.ErrAbortHandler)
		}
		answer["AccessKey"] = map[string]string{"AccessKeyId": pair[0], "SecretAccessKey": pair[1]}
	case action == "DeleteAccessKey":
		p.pairs = slices.DeleteFunc(p.pairs, func(pair [2]string) bool { return pair[0] == r.URL.Query().Get("AccessKeyId") })
	case action == "ListAccessKeys":
		all := []map[string]string{}
		for _, pair := range p.pairs {
			all = append(all, map[string]string{"AccessKeyId": pair[0]})
		}
		answer["AccessKeyMetadata"] = all
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (p *accessKeys) all() [][2]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.pairs)
}

// A provider's keys are made, given out with their ids, and revoked. A value whose answer was lost holds the rotation, which names it.
func TestHTTPKey(t *testing.T) {
	provider := &accessKeys{}
	s := httptest.NewServer(provider)
	defer s.Close()
	b := newBackendTest(t)
	b.write("config", map[string]any{"soak": 0, "observe": 0})
	const update logical.Operation = logical.UpdateOperation
	connection := map[string]any{
		"kind": "http", "api_url": s.URL, "password": "canary-admin", "allowed_hosts": "127.0.0.1", "auth_header": "X-Admin-Token", "auth_format": "{{password}}",
		"create_path": "/?Action=CreateAccessKey&UserName={{parameter.user}}", "create_id": "AccessKey.AccessKeyId", "create_value": "AccessKey.SecretAccessKey",
		"list_path": "/?Action=ListAccessKeys&UserName={{parameter.user}}", "list_items": "AccessKeyMetadata",
		"revoke_method": "POST", "revoke_path": "/?Action=DeleteAccessKey&UserName={{parameter.user}}&AccessKeyId={{id}}",
		"verify_path": "/?Action=Who", "verify_format": "Basic {{basic}}",
	}
	b.write("connections/cloud", connection)
	b.refuses(update, "connections/cloud/rotate-root", nil, "password=-")
	b.refuses(update, "connections/cloud", map[string]any{"api_url": "https://elsewhere.example"}, "password")
	b.write("keys/aws", map[string]any{"kind": "http", "connection": "cloud", "parameters": "user=deploy", "env": "AWS_SECRET_ACCESS_KEY", "id_env": "AWS_ACCESS_KEY_ID", "generate": true})
	b.write("workloads/api", map[string]any{"presents": "aws"})
	present := func() [2]string {
		t.Helper()
		values := b.instance("api", "api-1").Data["values"].(map[string]any)
		pair := [2]string{values["AWS_ACCESS_KEY_ID"].(string), values["AWS_SECRET_ACCESS_KEY"].(string)}
		if !slices.Contains(provider.all(), pair) {
			t.Error("the instance holds no pair that the provider takes")
		}
		return pair
	}
	first := present()
	b.refuses(update, "rotate", map[string]any{"key": "aws", "value": "canary-brought"}, "leave value out")
	id := b.write("rotate", map[string]any{"key": "aws"})["id"].(string)
	b.until(id, "done")
	if second := present(); second == first || len(provider.all()) != 1 {
		t.Errorf("at the end the provider has %d pairs", len(provider.all()))
	}

	provider.mu.Lock()
	provider.lose = 1
	provider.mu.Unlock()
	id = b.write("rotate", map[string]any{"key": "aws"})["id"].(string)
	b.until(id, "breaks the connection off")
	lost := provider.all()[1][0]
	b.until(id, lost)
	b.write("rotations/"+id+"/revert", nil)
	b.until(id, "reverted")
	present()
	if plan := b.write("rotate", map[string]any{"key": "aws", "dry_run": true, "detailed": true}); !strings.Contains(fmt.Sprint(plan["blockers"]), lost) {
		t.Errorf("the plan is blocked by %v", plan["blockers"])
	}
	b.write("keys/aws", map[string]any{"others": lost})
	b.until(b.write("rotate", map[string]any{"key": "aws"})["id"].(string), "done")
	if present(); len(provider.all()) != 2 {
		t.Errorf("beside somebody else's pair the provider has %d", len(provider.all())-1)
	}
	b.write("keys/brought", map[string]any{"kind": "http", "connection": "cloud", "parameters": "user=deploy", "imported_id": lost, "value": provider.all()[0][1]})
	b.refuses(update, "keys/brought", map[string]any{"imported_id": "", "id_env": "BROUGHT_ID"}, "imported_id")
	if text := b.answers.String() + b.log.String(); strings.Contains(text, "canary") {
		t.Error("a secret stands in an answer or a log")
	}
}
