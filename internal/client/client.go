// SPDX-License-Identifier: Apache-2.0

// Package client is the typed client of the engine's paths, over Vault's own.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Client speaks to one mount of the engine.
type Client struct {
	vault *api.Client
	mount string
}

// New makes a client of a mount, such as "hyvve". It uses the token that vault has.
func New(vault *api.Client, mount string) *Client { return &Client{vault: vault, mount: mount} }

// What a caller may do about an error; errors.Is tells.
var (
	ErrUnavailable = errors.New("vault is not available") // sealed, down, overloaded, failing over: try again later
	ErrDenied      = errors.New("vault denies access")    // the token is no good, or its policy: log in again
	ErrRefused     = errors.New("vault refused")          // the request as it is; for an instance: read its bundle again

	// ErrNoWrite is the error of Read where the policy or the engine knows bundles to be read alone: use CredsOf.
	ErrNoWrite = errors.New("vault takes no write there")
)

// Bundle is what creds/ gave to an instance.
type Bundle struct {
	Values         map[string]key.Value   // by environment name
	Accepts        map[string][]key.Value // newest first
	Versions       map[string]int
	Created        map[string]time.Time // of the version in Versions; empty where the engine does not tell
	AcceptVersions map[string][]int     // parallel to Accepts
	Work           []workload.Work
	Etag           string
	Instance       string
	Secret         key.Value // proves reports
	LeaseID        string
	LeaseDuration  time.Duration
	Warnings       []string
}

// wire is the form of a bundle's data.
type wire struct {
	Plain
	Created        map[string]string `json:"created_times"` // RFC 3339
	Work           []workload.Work   `json:"work"`
	Instance       string            `json:"instance"`
	InstanceSecret string            `json:"instance_secret"`
}

// answerLimit bounds what does not block on purpose: a Vault that takes requests and never answers is not available.
const answerLimit = 30 * time.Second

// OneLine are the environment names of keys whose values a reader can carry only if they have one line. Empty: all.
type OneLine []string

// Carries returns what a reader says that can carry values of several lines, but for those of the given names.
func Carries(but ...string) OneLine {
	if len(but) == 0 {
		return OneLine{"none"}
	}
	return but
}

// Creds reads the bundle of an instance that can carry no value of several lines.
func (c *Client) Creds(ctx context.Context, workloadName, instance string) (Bundle, error) {
	return c.CredsOf(ctx, workloadName, instance, nil)
}

// CredsOf reads the bundle of an instance.
func (c *Client) CredsOf(ctx context.Context, workloadName, instance string, oneLine OneLine) (Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	query := url.Values{"instance": {instance}}
	if len(oneLine) > 0 {
		query.Set("one_line", strings.Join(oneLine, ","))
	}
	var w wire
	secret, err := c.read(ctx, "creds/"+workloadName, query, &w)
	if err != nil {
		return Bundle{}, err
	}
	return w.read(secret)
}

// Reader is an instance that reads its bundle and sends signs of life from then on.
type Reader struct {
	Workload, Instance string
	OneLine            OneLine
	Secret             key.Value // of its newest read, by which another login may use its name; empty: not known
	Pod, Node          string    // of Kubernetes, that it runs in; empty: not known
}

// Read reads the bundle of an instance. ErrNoWrite: an earlier release's policy, or engine, allows CredsOf alone.
func (c *Client) Read(ctx context.Context, r Reader) (Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	fields := map[string]string{"instance": r.Instance, "instance_secret": r.Secret.Reveal(), "pod": r.Pod, "node": r.Node}
	if len(r.OneLine) > 0 { // left out: it can carry no value of several lines
		fields["one_line"] = strings.Join(r.OneLine, ",")
	}
	body, err := json.Marshal(fields)
	if err != nil {
		return Bundle{}, err
	}
	request := c.vault.NewRequest(http.MethodPut, "/v1/"+c.mount+"/creds/"+r.Workload)
	request.BodyBytes = body
	resp, err := c.vault.RawRequestWithContext(ctx, request) //nolint:staticcheck // Logical().WriteRaw cancels the request before the answer is read, so that a long one is lost
	if resp != nil && (resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusMethodNotAllowed) {
		err = fmt.Errorf("%w: %w", ErrNoWrite, err)
	}
	var w wire
	secret, err := c.decodeOnce("creds/"+r.Workload, resp, err, &w)
	if err != nil {
		return Bundle{}, err
	}
	return w.read(secret)
}

// read is the bundle of an answer.
func (w wire) read(secret *api.Secret) (Bundle, error) {
	b, err := w.Bundle()
	if err != nil {
		return Bundle{}, err
	}
	if err := checkWork(w.Work); err != nil {
		return Bundle{}, err
	}
	b.Work, b.Instance, b.Secret, b.Created = w.Work, w.Instance, key.NewValue(w.InstanceSecret), map[string]time.Time{}
	b.LeaseID, b.LeaseDuration, b.Warnings = secret.LeaseID, time.Duration(secret.LeaseDuration)*time.Second, secret.Warnings
	for env, text := range w.Created {
		if at, err := time.Parse(time.RFC3339, text); err == nil {
			b.Created[env] = at
		}
	}
	return b, nil
}

// checkWork refuses work with names that would forge lines where they are shown.
func checkWork(all []workload.Work) error {
	for _, w := range all {
		for _, text := range []string{w.ID, w.Rotation, w.Key, w.Env} {
			if strings.ContainsFunc(text, unicode.IsControl) {
				return fmt.Errorf("nothing of the bundle is taken: work %q has a name with control characters (%q)", w.ID, text)
			}
		}
	}
	return nil
}

// Watched is the answer to a watch.
type Watched struct {
	Changed    bool `json:"changed"`     // read the bundle again
	Superseded bool `json:"superseded"`  // somebody else watches as the same instance
	RetryAfter int  `json:"retry_after"` // seconds: watch again after between half of them and all; 0: at once
}

// Watch waits until the instance should hold another bundle than that of etag, or wait is over. Without news it may return
// earlier.
func (c *Client) Watch(ctx context.Context, workloadName, instance, etag string, wait time.Duration) (Watched, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+answerLimit)
	defer cancel()
	var w Watched
	query := url.Values{"instance": {instance}, "etag": {etag}, "wait": {fmt.Sprintf("%ds", int(wait.Seconds()))}}
	_, err := c.read(ctx, "watch/"+workloadName, query, &w)
	return w, err
}

// Report is what an instance says of itself.
type Report struct {
	Workload, Instance string
	Secret             key.Value
	Etag               string // loaded
	Healthy            bool
	Reason             string
	Last               bool // the process ends, and the next one may use the name
	Work               []workload.WorkReport
	Sightings          []workload.Sighting
}

// Answer is the answer to a report, or to a sign of life.
type Answer struct {
	Etag  string        // that the instance should have
	Lease time.Duration // until it should be heard of again; 0: an engine that does not extend leases so
}

type answerWire struct {
	Etag  string `json:"etag"`
	Lease int    `json:"lease_duration"` // seconds
}

func (a answerWire) answer() Answer { return Answer{a.Etag, time.Duration(a.Lease) * time.Second} }

// Report sends it, and extends the instance's lease.
func (c *Client) Report(ctx context.Context, r Report) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var w answerWire
	_, err := c.write(ctx, "report/"+r.Workload, map[string]any{
		"instance": r.Instance, "instance_secret": r.Secret.Reveal(), "etag": r.Etag, "healthy": r.Healthy,
		"reason": r.Reason, "work": r.Work, "sightings": sightings(r.Sightings), "extend_lease": true, "last": r.Last,
	}, &w)
	return w.answer(), err
}

// Extend is a sign of life alone. ErrRefused: read the bundle again.
func (c *Client) Extend(ctx context.Context, workloadName, instance string, secret key.Value) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var w answerWire
	_, err := c.write(ctx, "report/"+workloadName, map[string]any{
		"instance": instance, "instance_secret": secret.Reveal(), "extend_lease": true,
	}, &w)
	return w.answer(), err
}

// Leave says that an instance has ended.
func (c *Client) Leave(ctx context.Context, workloadName, instance string, secret key.Value) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	_, err := c.write(ctx, "leave/"+workloadName, map[string]any{"instance": instance, "instance_secret": secret.Reveal()}, nil)
	return err
}

// sightings gives their age instead of when they were: clocks differ.
func sightings(all []workload.Sighting) []map[string]any {
	wire := make([]map[string]any, 0, len(all))
	for _, s := range all {
		wire = append(wire, map[string]any{
			"env": s.Env, "version": s.Version, "count": s.Count, "last_seen": max(time.Since(s.Last), 0).Seconds(), "from": s.From,
		})
	}
	return wire
}

// Rotation is a rotation as rotate and rotations/ show it.
type Rotation struct {
	ID        string                            `json:"id"`
	State     string                            `json:"state"`
	Step      string                            `json:"step"`
	Keys      []string                          `json:"keys"`
	Versions  map[string]struct{ From, To int } `json:"versions"`
	NextGate  string                            `json:"next_gate"`
	Trigger   string                            `json:"trigger"`
	Created   time.Time                         `json:"created_time"`
	Gates     []Gate                            `json:"gates"`
	Timeline  []Event                           `json:"timeline"`
	Rows      map[string]Rows                   `json:"rows"`
	Instances []map[string]any                  `json:"instances"`
}

// Gate is a condition of the present step.
type Gate struct {
	Gate   string `json:"gate"`
	Holds  bool   `json:"holds"`
	Reason string `json:"reason"`
}

// Event is an entry of a timeline.
type Event struct {
	Time  time.Time `json:"time"`
	State string    `json:"state"`
	Step  string    `json:"step"`
	Text  string    `json:"text"`

	By     string `json:"by"`
	Reason string `json:"reason"`
}

// Rows is the re-encryption of one key.
type Rows struct {
	Done    bool         `json:"done"`
	Error   string       `json:"error"`
	Columns []ColumnRows `json:"columns"`
}

// ColumnRows counts the rows of one column.
type ColumnRows struct {
	Column     string `json:"column"`
	Total      int    `json:"total"`
	Staged     int    `json:"staged"`
	Rotated    int    `json:"rotated"`
	Left       int    `json:"left"`
	Other      int    `json:"other"`
	Unreadable int    `json:"unreadable"`
}

// Ended tells whether nothing will happen any more.
func (r Rotation) Ended() bool { return r.State == "done" || r.State == "reverted" }

// Rotate starts a rotation of keys together.
func (c *Client) Rotate(ctx context.Context, reason string, keys ...string) (Rotation, error) {
	var r Rotation
	_, err := c.write(ctx, "rotate", map[string]any{"keys": keys, "reason": reason}, &r)
	return r, err
}

// Rotation reads one.
func (c *Client) Rotation(ctx context.Context, id string) (Rotation, error) {
	var r Rotation
	_, err := c.read(ctx, "rotations/"+id, nil, &r)
	return r, err
}

// Rotations lists the ids of all, oldest first.
func (c *Client) Rotations(ctx context.Context) ([]string, error) {
	secret, err := c.vault.Logical().ListWithContext(ctx, c.mount+"/rotations")
	if err != nil {
		return nil, Classify(err)
	}
	if secret == nil {
		return nil, nil
	}
	var w struct {
		Keys []string `json:"keys"`
	}
	return w.Keys, decode(secret.Data, &w)
}

// Revert takes one back.
func (c *Client) Revert(ctx context.Context, id string) (Rotation, error) {
	var r Rotation
	_, err := c.write(ctx, "rotations/"+id+"/revert", nil, &r)
	return r, err
}

// read decodes the answer once, and not by way of the maps of Logical().Read: sidecars do little else.
func (c *Client) read(ctx context.Context, path string, query url.Values, into any) (*api.Secret, error) {
	resp, err := c.vault.Logical().ReadRawWithDataWithContext(ctx, c.mount+"/"+path, query)
	return c.decodeOnce(path, resp, err, into)
}

// decodeOnce decodes an answer.
func (c *Client) decodeOnce(path string, resp *api.Response, err error, into any) (*api.Secret, error) {
	if resp != nil {
		defer resp.Body.Close() //nolint:errcheck // it has been read to its end
	}
	switch {
	case resp != nil && resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%w: %s/%s is not there; is the engine mounted at %q?", ErrRefused, c.mount, path, c.mount)
	case err != nil:
		return nil, Classify(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, Classify(err)
	}
	answer := struct {
		LeaseID       string   `json:"lease_id"`
		LeaseDuration int      `json:"lease_duration"`
		Warnings      []string `json:"warnings"`
		Data          any      `json:"data"`
	}{Data: into}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, errForm(err)
	}
	return &api.Secret{LeaseID: answer.LeaseID, LeaseDuration: answer.LeaseDuration, Warnings: answer.Warnings}, nil
}

func (c *Client) write(ctx context.Context, path string, data map[string]any, into any) (*api.Secret, error) {
	secret, err := c.vault.Logical().WriteWithContext(ctx, c.mount+"/"+path, data)
	if err != nil {
		return nil, Classify(err)
	}
	if secret == nil || into == nil {
		return secret, nil
	}
	return secret, decode(secret.Data, into)
}

// errForm stands for the error of a mismatch, which may quote a value, so that it is not passed on.
func errForm(err error) error {
	return fmt.Errorf("vault's answer has another form than this release knows (%T)", err)
}

// decode reads data into a struct.
func decode(data map[string]any, into any) error {
	text, err := json.Marshal(data)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return errForm(err)
	}
	return nil
}

// What a Vault answers that is a replication's secondary, or a performance standby, where it does not forward; seen behind
// load balancers that pass its health on (sys/health of Vault's API).
const (
	statusSecondary = 472
	statusStandby   = 473
)

// Classify says by status what may be done about an error of Vault's client.
func Classify(err error) error {
	if err == nil {
		return nil
	}
	var response *api.ResponseError
	if !errors.As(err, &response) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	switch code := response.StatusCode; {
	case code == http.StatusForbidden || code == http.StatusUnauthorized:
		return fmt.Errorf("%w: %w", ErrDenied, err)
	case code == http.StatusTooManyRequests || code == http.StatusPreconditionFailed || code == statusSecondary ||
		code == statusStandby || code >= http.StatusInternalServerError:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}
