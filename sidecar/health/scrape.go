// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// Metrics is where a workload exposes its metrics, and which of them are wanted.
type Metrics struct {
	URL             string
	Metric          string // a counter
	Matchers        []Matcher
	Timeout         time.Duration
	BearerTokenFile string          // read for each request
	Tokens          func() []string // bearer tokens that the workload may take, instead of a file; nil: none
	taken           string          // the one of Tokens that it took last
}

// sample is what was read at a moment.
type sample struct {
	series map[string]float64 // by labels
	known  bool               // the metric is there, if perhaps with other labels
	born   float64            // when the process was started, in seconds since 1970; 0 where it does not tell
}

// bornMetric is exported by most metrics libraries.
const bornMetric = "process_start_time_seconds"

// maxExposition bounds what is read of an answer.
const maxExposition = 64 << 20

// errAuthorization: the workload does not take the token.
var errAuthorization = errors.New("the token is not taken")

// read asks once. Where several tokens may be right, the one that was taken last is tried first: each wrong one is a
// refusal that the workload counts.
func (m *Metrics) read(ctx context.Context) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	tokens := []string{""}
	switch {
	case m.BearerTokenFile != "":
		token, err := external.ReadCredential(m.BearerTokenFile)
		if err != nil {
			return sample{}, fmt.Errorf("bearer_token_file: %w", err)
		}
		tokens = []string{token}
	case m.Tokens != nil:
		if tokens = slices.Clone(m.Tokens()); len(tokens) == 0 {
			return sample{}, errors.New("the bundle has no value of its key")
		}
		if at := slices.Index(tokens, m.taken); at > 0 {
			tokens = slices.Insert(slices.Delete(tokens, at, at+1), 0, m.taken)
		}
	}
	var s sample
	var err error
	for _, token := range tokens {
		if s, err = m.readWith(ctx, token); !errors.Is(err, errAuthorization) {
			m.taken = token
			break
		}
	}
	return s, err
}

func (m *Metrics) readWith(ctx context.Context, token string) (sample, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.URL, http.NoBody)
	if err != nil {
		return sample{}, err
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := external.Do(req)
	if err != nil {
		return sample{}, err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	switch where := req.URL.Redacted(); {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return sample{}, fmt.Errorf("%s answered %s: %w", where, external.StatusText(resp.StatusCode), errAuthorization)
	case resp.StatusCode != http.StatusOK:
		return sample{}, fmt.Errorf("%s answered %s", where, external.StatusText(resp.StatusCode))
	}
	limited := &io.LimitedReader{R: resp.Body, N: maxExposition}
	s, err := m.parse(limited)
	if err == nil && limited.N == 0 {
		err = fmt.Errorf("its metrics are more than %d MiB", maxExposition>>20)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", req.URL.Redacted(), err)
	}
	return s, nil
}

// batchSize is how much is parsed at a time. Only the lines of the wanted metrics are, since an exposition may be larger
// than all of the memory that the sidecar is to use.
const batchSize = 64 << 10

func (m *Metrics) parse(in io.Reader) (sample, error) {
	s := sample{series: map[string]float64{}}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	var kind []byte // the line that tells the metric's type
	var batch bytes.Buffer
	flush := func() error {
		families, err := parser.TextToMetricFamilies(io.MultiReader(bytes.NewReader(kind), &batch))
		batch.Reset()
		if err != nil {
			return fmt.Errorf("its metrics cannot be read: %w", err)
		}
		return m.take(&s, families)
	}
	lines := bufio.NewReaderSize(in, batchSize)
	for {
		line, err := wholeLine(lines, m.wants)
		switch {
		case bytes.HasPrefix(line, []byte("#")):
			kind, s.known = bytes.Clone(line), true
		default:
			batch.Write(line)
		}
		if batch.Len() > batchSize || err != nil {
			if wrong := flush(); wrong != nil {
				return s, wrong
			}
		}
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return s, fmt.Errorf("reading its metrics: %w", err)
		}
	}
}

// wholeLine returns the next line including its end if it is wanted, and nothing otherwise. wanted sees the part of the line
// that fits in the buffer.
func wholeLine(in *bufio.Reader, wanted func(line []byte) bool) (line []byte, err error) {
	part, err := in.ReadSlice('\n')
	want := wanted(part)
	for {
		if want {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
		part, err = in.ReadSlice('\n')
	}
	if want && err != nil { // the last line
		line = append(line, '\n')
	}
	return line, err
}

// wants reports whether a line is about one of the metrics.
func (m *Metrics) wants(line []byte) bool {
	text := strings.TrimLeft(string(line[:min(len(line), 1024)]), " \t")
	if comment, ok := strings.CutPrefix(text, "#"); ok {
		fields := strings.Fields(comment)
		return len(fields) >= 3 && fields[0] == "TYPE" && fields[1] == m.Metric
	}
	for _, name := range []string{m.Metric, bornMetric} {
		if rest, ok := strings.CutPrefix(text, name); ok && rest != "" && strings.ContainsAny(rest[:1], "{ \t") {
			return true
		}
	}
	return false
}

// take takes what was parsed into the sample.
func (m *Metrics) take(s *sample, families map[string]*dto.MetricFamily) error {
	if born := families[bornMetric]; born != nil && len(born.Metric) == 1 {
		s.born = value(born.Metric[0])
	}
	family := families[m.Metric]
	if family == nil {
		return nil
	}
	if t := family.GetType(); t != dto.MetricType_COUNTER && t != dto.MetricType_UNTYPED {
		return fmt.Errorf("metric %s is a %s, and only a counter can be compared; name one, such as http_requests_total", m.Metric, strings.ToLower(t.String()))
	}
	s.known = true
	for _, one := range family.Metric {
		labels := map[string]string{}
		var name []string
		for _, l := range one.Label {
			labels[l.GetName()] = l.GetValue()
			name = append(name, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
		}
		if slices.ContainsFunc(m.Matchers, func(x Matcher) bool { return !x.matches(labels[x.Label]) }) {
			continue
		}
		slices.Sort(name)
		if v := value(one); !math.IsNaN(v) && !math.IsInf(v, 0) {
			s.series[strings.Join(name, ",")] += v
		}
	}
	return nil
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	}
	return m.Untyped.GetValue()
}

// String writes what is wanted as PromQL does.
func (m *Metrics) String() string {
	var texts []string
	for _, x := range m.Matchers {
		texts = append(texts, x.String())
	}
	if len(texts) == 0 {
		return m.Metric
	}
	return m.Metric + "{" + strings.Join(texts, ",") + "}"
}
