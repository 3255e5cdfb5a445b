// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestAnnotationsThatAreTooMuch(t *testing.T) {
	o := Options{Image: "sidecar:1", VaultAddress: "https://vault:8200"}
	unknown := map[string]string{}
	for n := range maxAnnotations - 2 {
		unknown[fmt.Sprintf("strange-%d", n)] = "x"
	}
	for name, c := range map[string]struct {
		all  map[string]string
		want string
	}{
		"a long text":             {map[string]string{"role": strings.Repeat("x", maxOneText+1)}, "hyvve.app/role: it is 4097 bytes long; write no more than 4096"},
		"a long template":         {map[string]string{"template.x": strings.Repeat("x", maxTemplateText+1)}, "no more than 16384"},
		"much together":           {map[string]string{"template.x": strings.Repeat("x", maxTemplateText), "template.y": strings.Repeat("x", maxTemplateText)}, "no more than 32768"},
		"many unknown":            {unknown, "the rest was not looked at"},
		"many files":              {map[string]string{"render": strings.Repeat("json,", maxFiles+1)}, "no more than 32"},
		"many proxies":            {map[string]string{"proxy": strings.Repeat("1:2:A,", maxFiles+1)}, "no more than 32"},
		"an expression":           {map[string]string{"reload": "signal", "cmdline": `(a{100}){9}b{1000}c{100}`}, "repeats too much"},
		"expressions of series":   {map[string]string{"health": "prometheus", "health-labels": `a=~b{1000}c{1000}`}, "repeats too much"},
		"an expression of theirs": {map[string]string{"reload": "signal", "cmdline": `^node .*server\.(js|mjs)( --port=\d{1,5})?$`}, ""},
		"a template of 16 KiB":    {map[string]string{"template.x": strings.Repeat("x", maxTemplateText)}, ""},
	} {
		all := map[string]string{Domain + "/inject": "true", Domain + "/workload": "api"}
		for name, value := range c.all {
			all[Domain+"/"+name] = value
		}
		_, err := o.parse(all)
		if text := fmt.Sprint(err); (err == nil) != (c.want == "") || !strings.Contains(text, c.want) && err != nil || len(text) > 8<<10 {
			t.Errorf("%s: %.300s", name, text)
		}
	}
	unknown["one-more"], unknown["two-more"], unknown["three-more"] = "x", "x", "x"
	all := map[string]string{"other.example/x": strings.Repeat("x", 200_000)} // the affair of others
	if err := fits(all); err != nil {
		t.Error(err)
	}
	for name, value := range unknown {
		all[Domain+"/"+name] = value
	}
	if err := fits(all); err == nil || !strings.Contains(err.Error(), "no more than 128") {
		t.Errorf("%d annotations: %v", len(unknown), err)
	}
}

func TestParts(t *testing.T) {
	for text, want := range map[string][2]int{
		`"x"`:                            {0, 0},
		`{}`:                             {0, 1},
		`[1,2,3]`:                        {3, 0},
		`{"a":[{},{}],"b":"[,,,]\",{"}`:  {2, 4},
		`{"a":{"b":1,"c":[null,0,"x"]}}`: {3, 3},
		`]]]`:                            {0, 0}, // the parser's to refuse
		`"\`:                             {0, 0},
	} {
		if elements, members := parts([]byte(text)); elements != want[0] || members != want[1] {
			t.Errorf("%s: %d elements, %d members", text, elements, members)
		}
	}
}

func TestLocked(t *testing.T) {
	o := Options{Image: "sidecar:1", VaultAddress: "https://vault:8200", Locked: append(LockedByDefault(), "template.", "role")}
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	_, err := o.parse(map[string]string{
		Domain + "/inject": "true", Domain + "/workload": "api", Domain + "/image": "other", Domain + "/template.x": "x", Domain + "/role": "x", Domain + "/keys": "A",
	})
	for _, name := range []string{"image", "template.x", "role"} {
		if err == nil || !strings.Contains(err.Error(), "annotation hyvve.app/"+name+" is locked") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if strings.Contains(fmt.Sprint(err), "keys") {
		t.Error(err)
	}
	o.Locked = []string{"imag", "inject", "workload"}
	if err := o.Validate(); err == nil || strings.Count(err.Error(), "no annotation that can be locked") != 3 || !strings.Contains(err.Error(), `did you mean "image"?`) {
		t.Error(err)
	}
}

// What is reserved for a proxy follows from what the proxy lets in.
func TestMemoryOfProxies(t *testing.T) {
	for _, c := range []struct{ ports, requests, limit string }{
		{"8081:3000:A", "", "96Mi"}, {"8081:3000:A", "100", "96Mi"}, {"8081:3000:A", "1384", "242Mi"}, {"8081:3000:A,8082:3001:A", "1384", "468Mi"},
	} {
		all := map[string]string{Domain + "/inject": "true", Domain + "/workload": "api", Domain + "/proxy": c.ports}
		if c.requests != "" {
			all[Domain+"/proxy-max-requests"] = c.requests
		}
		s, err := Options{Image: "sidecar:1", VaultAddress: "https://vault:8200"}.parse(all)
		if err != nil {
			t.Fatal(err)
		}
		if limit := s.resources.Limits[corev1.ResourceMemory]; limit.String() != c.limit {
			t.Errorf("%s requests at %s: %s, want %s", c.requests, c.ports, limit.String(), c.limit)
		}
	}
	o := Options{Image: "sidecar:1", VaultAddress: "https://vault:8200", Locked: []string{"proxy-max-requests"}}
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	_, err := o.parse(map[string]string{Domain + "/inject": "true", Domain + "/workload": "api", Domain + "/proxy": "1:2:A", Domain + "/proxy-max-requests": "60000"})
	if err == nil || !strings.Contains(err.Error(), "proxy-max-requests is locked") {
		t.Errorf("a locked one: %v", err)
	}
}
