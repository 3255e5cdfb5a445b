// SPDX-License-Identifier: Apache-2.0

package health

import (
	"math"
	"strings"
	"testing"
)

// FuzzExposition has a workload expose anything as its metrics: no series has a value that cannot be compared, and what is
// read does not depend on where the reader's buffer ends.
func FuzzExposition(f *testing.F) {
	f.Add("# TYPE errors_total counter\nerrors_total{code=\"500\"} 3\nerrors_total{code=\"404\"} NaN\nprocess_start_time_seconds 1.7e9\n")
	f.Add("# TYPE errors_total gauge\nerrors_total 3")
	f.Add("errors_total{code=\"5\n00\"} 1e400\nerrors_total +Inf 5\n")
	f.Add(strings.Repeat("x", batchSize+10) + "\nerrors_total 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		m := Metrics{Metric: "errors_total"}
		s, err := m.parse(strings.NewReader(text))
		for name, v := range s.series {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Errorf("%s is %v", name, v)
			}
		}
		other := "other_total 1\n"
		shifted, errShifted := m.parse(strings.NewReader(strings.Repeat(other, batchSize/len(other)-1) + text))
		if (err == nil) != (errShifted == nil) || err == nil && len(s.series) != len(shifted.series) {
			t.Errorf("behind other metrics it is read as %v (%v), and alone as %v (%v)", shifted.series, errShifted, s.series, err)
		}
	})
}
