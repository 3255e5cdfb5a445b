// SPDX-License-Identifier: Apache-2.0

package login

import (
	"encoding/base64"
	"testing"
)

func TestPodOf(t *testing.T) {
	jwt := func(payload string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
	}
	for _, c := range []struct{ token, pod, node string }{
		{jwt(`{"kubernetes.io":{"namespace":"hyvve","node":{"name":"n-1","uid":"u"},"pod":{"name":"api-0","uid":"u"}}}`), "api-0", "n-1"},
		{jwt(`{"kubernetes.io":{"pod":{"name":"api-0"}}}`), "api-0", ""},
		{jwt(`{"kubernetes.io":{"pod":{"name":"api\n0"},"node":{"name":"n-1"}}}`), "", "n-1"},
		{jwt(`{"kubernetes.io":[]}`), "", ""},
		{jwt(`{"sub":"api"}`), "", ""},
		{"a.!.b", "", ""},
		{"", "", ""},
	} {
		if pod, node := podOf(c.token); pod != c.pod || node != c.node {
			t.Errorf("%s: %q, %q; want %q, %q", c.token, pod, node, c.pod, c.node)
		}
	}
}
