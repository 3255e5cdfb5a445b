// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
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
		return s, fmt.Errorf("%s: %w", req.URL.Redacted(), external.Lasting(err))
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

// Prometheus is a gate on a counter of the workload: it must not grow by more than MaxIncrease within Window after a change.
// What it was before the change does not count; a counter that is set back, as a restart does, and a series that was not
// there before, count from 0.
//
// While the window lasts, the workload is well. Once the counter has grown too much it is not, until it has grown by no
// more than MaxIncrease within a whole window again: so a rotation that waits for a soak time waits on.
type Prometheus struct {
	Metrics
	MaxIncrease float64
	Window      time.Duration
	Path        string // where it is kept over restarts of the sidecar; empty: nowhere
	Warn        func(err error)

	kept     watched
	recalled bool
	now      func() time.Time // nil: time.Now
}

// watched is what is kept.
type watched struct {
	Change string             `json:"change"`
	Since  time.Time          `json:"since"`  // when the window began
	Based  bool               `json:"based"`  // Last is of before
	Last   map[string]float64 `json:"last"`   // by labels
	Born   float64            `json:"born"`   // of the process that Last is of
	Grown  float64            `json:"grown"`  // since the window began
	Failed string             `json:"failed"` // why the workload is unhealthy
	Over   bool               `json:"over"`   // the window has ended, and the workload is healthy
	Known  bool               `json:"known"`  // the metric was there at least once
}

var (
	_ Checker = (*Prometheus)(nil)
	_ Gate    = (*Prometheus)(nil)
)

func (p *Prometheus) time() time.Time {
	if p.now != nil {
		return p.now()
	}
	return time.Now()
}

func (p *Prometheus) recall() {
	if p.recalled {
		return
	}
	p.recalled = true
	if err := recall(p.Path, &p.kept); err != nil {
		p.kept = watched{}
		p.Warn(err)
	}
	if now := p.time(); p.kept.Since.After(now) { // the clock was set back
		p.kept.Since = now
	}
}

// Begin implements Gate: it takes what the counter is before the change, and the window begins. That is kept before the
// change is made, so that killed anywhere, the sidecar knows it at its next start.
func (p *Prometheus) Begin(ctx context.Context, change string) error {
	p.recall()
	if p.kept.Change == change {
		return nil
	}
	next := watched{Change: change, Last: map[string]float64{}}
	s, err := p.read(ctx)
	switch {
	case err == nil:
		next.Based, next.Last, next.Born, next.Known = true, s.series, s.born, s.known
	case errors.Is(err, syscall.ECONNREFUSED):
		next.Based, err = true, nil // it does not run, and will count from 0
	default:
		err = fmt.Errorf("health check: %s before the change is not known, and what it is at the next look takes its place: %w", &p.Metrics, err)
	}
	next.Since = p.time()
	p.kept = next
	return several{err, keep(p.Path, p.kept)}.orNil()
}

// Check implements Checker.
func (p *Prometheus) Check(ctx context.Context, _ string) error {
	p.recall()
	if p.kept.Over {
		return nil
	}
	ended := !p.kept.Since.IsZero() && p.time().Sub(p.kept.Since) >= p.Window // before it is looked: what comes later does not count
	s, err := p.read(ctx)
	if err != nil && p.kept.Failed != "" {
		return proof{errors.New(p.kept.Failed)}
	}
	if err != nil {
		return fmt.Errorf("health check: %s: %w", &p.Metrics, err)
	}
	changed := p.grow(s)
	switch {
	case p.kept.Grown > p.MaxIncrease:
		p.fail()
		changed = true
	case ended:
		p.end()
		changed = true
	}
	if changed {
		if err := keep(p.Path, p.kept); err != nil {
			p.Warn(err)
		}
	}
	if p.kept.Failed != "" {
		return proof{errors.New(p.kept.Failed)}
	}
	return nil
}

// grow adds what has come since the last look. It reports whether there is something to keep.
func (p *Prometheus) grow(s sample) (changed bool) {
	k := &p.kept
	if k.Since.IsZero() {
		k.Since = p.time()
	}
	k.Known = k.Known || s.known
	if !k.Based {
		k.Based, k.Last, k.Born = true, s.series, s.born
		return true
	}
	// A process that tells when it was started counts from 0, however far it has come since.
	another := k.Born != 0 && s.born != 0 && math.Abs(s.born-k.Born) > 1
	for series, v := range s.series {
		last := k.Last[series]
		if another || v < last {
			last = 0
		}
		if v != last {
			k.Grown += v - last
			changed = true
		}
	}
	changed = changed || another || len(s.series) != len(k.Last)
	k.Last, k.Born = s.series, s.born
	return changed
}

// fail notes that the counter has grown too much, and begins another window. The words stay those of the first time, so
// that it is reported once.
func (p *Prometheus) fail() {
	k, now := &p.kept, p.time()
	if k.Failed == "" {
		took := max(now.Sub(k.Since).Round(time.Second), time.Second)
		k.Failed = fmt.Sprintf("health check: %s has grown by %g in the %s after the change, and max_increase is %g", &p.Metrics, k.Grown, duration.Text(took), p.MaxIncrease)
	}
	k.Grown, k.Since = 0, now
}

// end notes that a window has passed without that.
func (p *Prometheus) end() {
	p.kept.Failed, p.kept.Over = "", true
	if !p.kept.Known {
		p.Warn(fmt.Errorf("health check: %s never was there, so that it proves nothing; look at its name", p.Metric))
	}
}

// Matcher compares one label, as a matcher of PromQL does: a label that is not there is empty, and a regular expression
// must match all of the value.
type Matcher struct {
	Label   string
	op      string // one of operators, or "="
	value   string
	pattern *regexp.Regexp // of =~ and !~
}

// operators stand before a value that is not compared for equality.
var operators = []string{"=~", "!~", "!="}

var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// ParseMatchers reads matchers by label: "401" is that value, "=~4.." all that match, "!=200" any other, and "!~2.." all
// that do not match.
func ParseMatchers(labels map[string]string) ([]Matcher, error) {
	var all []Matcher
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		m := Matcher{Label: label, op: "=", value: labels[label]}
		for _, op := range operators {
			if rest, ok := strings.CutPrefix(m.value, op); ok {
				m.op, m.value = op, strings.TrimSpace(rest)
				break
			}
		}
		if !labelName.MatchString(label) {
			return nil, fmt.Errorf("labels: %q is not the name of a label", label)
		}
		if strings.HasSuffix(m.op, "~") {
			pattern, err := regexp.Compile("^(?s:" + m.value + ")$")
			if err != nil {
				return nil, fmt.Errorf("labels: %s: %w; write a regular expression such as \"=~4..\"", label, err)
			}
			m.pattern = pattern
		}
		all = append(all, m)
	}
	return all, nil
}

// String writes it as PromQL does.
func (m Matcher) String() string { return fmt.Sprintf("%s%s%q", m.Label, m.op, m.value) }

func (m Matcher) matches(value string) bool {
	switch m.op {
	case "=~":
		return m.pattern.MatchString(value)
	case "!~":
		return !m.pattern.MatchString(value)
	case "!=":
		return value != m.value
	}
	return value == m.value
}
