// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// Prometheus is a private Prometheus server.
type Prometheus struct {
	URL     string
	LogPath string

	bed     *Bed
	spec    spec
	process *process
}

// Prometheus starts one with a configuration in its own form (YAML).
func (b *Bed) Prometheus(ctx context.Context, config string) (*Prometheus, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	return b.PrometheusAt(ctx, port, config)
}

// PrometheusAt starts one at a loopback port that somebody else knows already.
func (b *Bed) PrometheusAt(ctx context.Context, port int, config string) (*Prometheus, error) {
	binary, err := prometheusBinary()
	if err != nil {
		return nil, err
	}
	home, err := os.MkdirTemp(b.Dir, "prometheus-")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(home, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	address := "127.0.0.1:" + strconv.Itoa(port)
	p := &Prometheus{URL: "http://" + address, bed: b, spec: spec{
		name: filepath.Base(home), path: binary, dir: home, stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGKILL,
		args: []string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(home, "data"), "--web.listen-address=" + address, "--log.level=debug"},
	}}
	return p, p.Start(ctx)
}

// prometheusBinary finds what scripts/setup has unpacked, or one that is installed.
func prometheusBinary() (string, error) {
	if path := Tool("tools", "prometheus"); exists(path) {
		return path, nil
	}
	if path, err := exec.LookPath("prometheus"); err == nil {
		return path, nil
	}
	return "", errors.New("prometheus is not there; run scripts/setup (make test and make demo do)")
}

// Start starts it, again after Stop or Kill on the same port.
func (p *Prometheus) Start(ctx context.Context) error {
	p.bed.say("starting Prometheus on %s", p.URL)
	var err error
	if p.process, err = p.bed.start(p.spec); err != nil {
		return err
	}
	p.LogPath = p.process.log
	return p.process.await(ctx, func(ctx context.Context) error {
		_, err := p.get(ctx, "/-/ready")
		return err
	})
}

// Stop ends it.
func (p *Prometheus) Stop() error { return p.process.stop(stopPatience) }

// Query evaluates an expression of PromQL now, and returns the values of its vector.
func (p *Prometheus) Query(ctx context.Context, expression string) ([]float64, error) {
	body, err := p.get(ctx, "/api/v1/query?query="+url.QueryEscape(expression))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			Result []struct {
				Value [2]any `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("%s: %w", expression, err)
	}
	var values []float64
	for _, r := range answer.Data.Result {
		v, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", expression, err)
		}
		values = append(values, v)
	}
	return values, nil
}

func (p *Prometheus) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("prometheus answered %s: %s", resp.Status, body)
	}
	return body, err
}
