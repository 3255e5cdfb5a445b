// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
)

// prometheusText is what Prometheus scrapes.
func (b *backendTest) prometheusText() string {
	b.t.Helper()
	data := b.read("metrics", map[string]any{"format": "prometheus"}).Data
	if data[logical.HTTPStatusCode] != 200 || !strings.HasPrefix(fmt.Sprint(data[logical.HTTPContentType]), "text/plain; version=0.0.4") {
		b.t.Fatalf("%v, %v", data[logical.HTTPStatusCode], data[logical.HTTPContentType])
	}
	return string(data[logical.HTTPRawBody].([]byte))
}

// A rotation that waits because nobody is there shows in the metrics, and so do what it waits for and for how long.
func TestMetricsShowWhatWaits(t *testing.T) {
	b := hyvve(t)
	before := b.prometheusText()
	for _, want := range []string{
		`hyvve_key_rotating{key="agno-api-key"} 0`, `hyvve_key_version{key="agno-api-key",kind="token"} 1`, `hyvve_workload_instances{workload="agents"} 0`,
		`hyvve_workload_instances{workload="api"} 0`, `hyvve_workload_min_instances{workload="api"} 1`, `hyvve_workload_unhealthy_instances{workload="agents"} 0`,
	} {
		if !strings.Contains(before, want+"\n") {
			t.Errorf("no %s in\n%s", want, before)
		}
	}
	if strings.Contains(before, "hyvve_rotation_") {
		t.Errorf("a rotation, though none runs:\n%s", before)
	}
	id := b.write("rotate/agno-api-key", map[string]any{"confirm": "manual", "deadline": "10m"})["id"].(string)
	b.until(id, "min_instances")
	during := b.prometheusText()
	for _, want := range []string{
		`hyvve_key_rotating{key="agno-api-key"} 1`,
		`hyvve_rotation_gate_waiting{gate="min_instances",keys="agno-api-key",rotation="` + id + `"} 1`,
		`hyvve_rotation_paused{keys="agno-api-key",rotation="` + id + `"} 0`,
		`hyvve_rotation_failed_attempts{keys="agno-api-key",rotation="` + id + `"} 0`,
		`hyvve_rotation_start_timestamp_seconds{compromised="false",keys="agno-api-key",rotation="` + id + `",trigger="operator"} `,
		`hyvve_rotation_step_start_timestamp_seconds{keys="agno-api-key",rotation="` + id + `",state="accepting",step="load"} `,
		`hyvve_rotation_deadline_timestamp_seconds{keys="agno-api-key",rotation="` + id + `"} `,
	} {
		if !strings.Contains(during, want) {
			t.Errorf("no %s in\n%s", want, during)
		}
	}
	problems, err := promlint.New(strings.NewReader(during)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	plain := b.read("metrics").Data
	if plain[`hyvve_key_rotating{key="agno-api-key"}`] != 1.0 {
		t.Errorf("%v", plain)
	}
	b.refuses(logical.ReadOperation, "metrics", map[string]any{"format": "xml"}, "format=xml is not known; use format=prometheus, or leave it out")
	b.write("rotations/"+id+"/pause", nil)
	if paused := b.prometheusText(); !strings.Contains(paused, `hyvve_rotation_paused{keys="agno-api-key",rotation="`+id+`"} 1`) || strings.Contains(paused, "hyvve_rotation_deadline_") {
		t.Errorf("paused:\n%s", paused)
	}
}

// describedName is the name of a metric in the text of its description.
var describedName = regexp.MustCompile(`fqName: "(hyvve_[a-z_]+)"`)

// docs/monitoring.md lists each metric of the engine and each alert. Alerts and dashboard use no metric that is not there, or that the pages
// of the sidecar and the injector do not list.
func TestMetricsPage(t *testing.T) {
	var names []string
	for _, d := range []*prometheus.Desc{
		metricInfo, metricKeyVersion, metricKeyCreated, metricKeyDue, metricKeyRotating, metricKeyBlocked, metricKeyOrphan, metricKeyProblems,
		metricKeyRefused, metricKeyCut, metricKeyTripped, metricKeyTripOpen, metricKeyUndeleted, metricRotationStart, metricRotationStep, metricRotationGate, metricRotationFailed,
		metricRotationPaused, metricRotationDeadline, metricInstances, metricMinimum, metricUnhealthy, metricLockedOut, metricLeaving,
		metricUnproved, metricConflicts, metricLimitHit, metricConnection, metricChecked,
	} {
		names = append(names, describedName.FindStringSubmatch(d.String())[1])
	}
	file := func(path string) []byte {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	source, page, alerts := file("metrics.go"), file("../docs/monitoring.md"), file("../deploy/monitoring/alerts.yaml")
	if n := bytes.Count(source, []byte(" = gauge(")); n != len(names) {
		t.Errorf("%d metrics are described and %d are compared here", n, len(names))
	}
	known := map[string]bool{}
	for _, name := range names {
		known[name] = true
		if !bytes.Contains(page, []byte("`"+name)) {
			t.Errorf("docs/monitoring.md does not list %s", name)
		}
	}
	for _, other := range []string{"../docs/sidecar.md", "../docs/injector.md"} {
		for _, found := range regexp.MustCompile("`(hyvve_[a-z_]+)").FindAllSubmatch(file(other), -1) {
			known[string(found[1])] = true
		}
	}
	for _, text := range [][]byte{alerts, file("../deploy/monitoring/dashboard.json")} {
		for _, name := range regexp.MustCompile(`hyvve_[a-z]+_[a-z_]+`).FindAllString(string(text), -1) {
			if !known[name] {
				t.Errorf("an alert or the dashboard uses %s, which is not there", name)
			}
		}
	}
	all := regexp.MustCompile(`alert: (\w+)`).FindAllSubmatch(alerts, -1)
	for _, found := range all {
		if !bytes.Contains(page, fmt.Appendf(nil, "`%s`", found[1])) {
			t.Errorf("docs/monitoring.md does not list the alert %s", found[1])
		}
	}
	if len(all) < 10 {
		t.Errorf("%d alerts were found", len(all))
	}
}

// The alert on stopped sidecars comes while rotations wait for their instances still: afterwards they are no longer counted.
func TestAlertOnStoppedSidecarsComesInTime(t *testing.T) {
	text, err := os.ReadFile("../deploy/monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, alert, _ := strings.Cut(string(text), "alert: HyvveSidecarsStopped\n")
	found := regexp.MustCompile(`for: (\S+)`).FindStringSubmatch(alert)
	if found == nil {
		t.Fatal("no such alert")
	}
	after, err := time.ParseDuration(found[1])
	if lease := catalog.DefaultConfig().LeaseTTL; err != nil || after > lease/2 {
		t.Errorf("it comes after %s, and the lease lasts %s: %v", after, lease, err)
	}
}

// Instances that prove too little for their workload show in the metrics, and so does a name that two processes use.
func TestMetricsShowWhoProvesNothing(t *testing.T) {
	b := hyvve(t) // whose workloads require health
	before := b.instance("api", "api-1").Data
	shows := func(unproved, conflicts int) {
		t.Helper()
		text := b.prometheusText()
		for _, want := range []string{
			fmt.Sprintf(`hyvve_workload_unproved_instances{workload="api"} %d`, unproved), `hyvve_workload_unproved_instances{workload="agents"} 0`,
			fmt.Sprintf(`hyvve_workload_name_conflicts{workload="api"} %d`, conflicts), `hyvve_workload_name_conflicts{workload="agents"} 0`,
		} {
			if !strings.Contains(text, want+"\n") {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
	}
	b.read("creds/api", map[string]any{"instance": "api-2"}) // which reports nothing
	shows(1, 0)
	for range 2 { // another process reads and reports under the name, and the one before reports again
		after := b.instance("api", "api-1").Data
		b.refuses(logical.UpdateOperation, "report/api", map[string]any{"instance": "api-1", "instance_secret": before["instance_secret"], "etag": before["etag"], "healthy": true}, "instance_secret")
		before = after
	}
	shows(1, 1)
}
