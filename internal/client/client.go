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
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/vault/api"

	engineapi "github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
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

	Tripwires map[string][]workload.Tripwire // by environment name; nil: the engine says nothing of any
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
	var w engineapi.Creds
	secret, err := c.read(ctx, "creds/"+workloadName, query, &w)
	if err != nil {
		return Bundle{}, err
	}
	return bundleOf(w, secret)
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
	asked := engineapi.CredsRequest{Instance: r.Instance, Secret: r.Secret.Reveal(), Pod: r.Pod, Node: r.Node, OneLine: r.OneLine}
	body, err := json.Marshal(asked)
	if err != nil {
		return Bundle{}, err
	}
	request := c.vault.NewRequest(http.MethodPut, "/v1/"+c.mount+"/creds/"+r.Workload)
	request.BodyBytes = body
	resp, err := c.vault.RawRequestWithContext(ctx, request) //nolint:staticcheck // Logical().WriteRaw cancels the request before the answer is read, so that a long one is lost
	if resp != nil && (resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusMethodNotAllowed) {
		err = fmt.Errorf("%w: %w", ErrNoWrite, err)
	}
	var w engineapi.Creds
	secret, err := c.decodeOnce("creds/"+r.Workload, resp, err, &w)
	if err != nil {
		return Bundle{}, err
	}
	return bundleOf(w, secret)
}

// bundleOf is the bundle of an answer.
func bundleOf(w engineapi.Creds, secret *api.Secret) (Bundle, error) {
	b, err := Opaque(w.Bundle)
	if err != nil {
		return Bundle{}, err
	}
	if err := checkWork(w.Work); err != nil {
		return Bundle{}, err
	}
	b.Work, b.Instance, b.Secret, b.Created = w.Work, w.Instance, key.NewValue(w.Secret), map[string]time.Time{}
	b.Tripwires = tripwiresOf(w)
	b.LeaseID, b.LeaseDuration, b.Warnings = secret.LeaseID, time.Duration(secret.LeaseDuration)*time.Second, secret.Warnings
	for env, text := range w.Created {
		if at, err := time.Parse(time.RFC3339, text); err == nil {
			b.Created[env] = at
		}
	}
	return b, nil
}

// tripwiresOf are those of an answer; nil: it says nothing of any.
func tripwiresOf(w engineapi.Creds) map[string][]workload.Tripwire {
	if w.Tripwires == nil {
		return nil
	}
	all := map[string][]workload.Tripwire{}
	for env, list := range w.Tripwires {
		for _, t := range list {
			all[env] = append(all[env], workload.Tripwire{Version: t.Version, Salt: t.Salt, Digest: t.Digest, Until: t.Until.Time})
		}
	}
	return all
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

// Watch waits until the instance should hold another bundle than that of etag, or wait is over. Without news it may return
// earlier.
func (c *Client) Watch(ctx context.Context, workloadName, instance, etag string, wait time.Duration) (engineapi.Watched, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+answerLimit)
	defer cancel()
	var w engineapi.Watched
	query := url.Values{"instance": {instance}, "etag": {etag}, "wait": {fmt.Sprintf("%ds", int(wait.Seconds()))}}
	_, err := c.read(ctx, "watch/"+workloadName, query, &w)
	return w, err
}

// Report is what an instance says of itself.
type Report struct {
	Workload, Instance string
	Secret             key.Value
	Etag               string         // loaded
	Proof              workload.Proof // how that is known
	Healthy            bool
	Reason             string
	Last               bool // the process ends, and the next one may use the name
	Work               []workload.WorkReport
	Sightings          []workload.Sighting
	Trips              []workload.Trip
}

// Report sends it, and extends the instance's lease.
func (c *Client) Report(ctx context.Context, r Report) (engineapi.Reported, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var reported engineapi.Reported
	err := c.write(ctx, "report/"+r.Workload, engineapi.Data(engineapi.ReportRequest{
		SignOfLife: engineapi.SignOfLife{Instance: r.Instance, Secret: r.Secret.Reveal(), ExtendLease: true},
		Etag:       r.Etag, Proof: r.Proof.String(), Healthy: &r.Healthy, Reason: r.Reason, Work: r.Work, Sightings: sightings(r.Sightings), Tripped: trips(r.Trips), Last: r.Last,
	}), &reported)
	return reported, err
}

// Extend is a sign of life alone. ErrRefused: read the bundle again.
func (c *Client) Extend(ctx context.Context, workloadName, instance string, secret key.Value) (engineapi.Reported, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var reported engineapi.Reported
	err := c.write(ctx, "report/"+workloadName, engineapi.Data(engineapi.SignOfLife{
		Instance: instance, Secret: secret.Reveal(), ExtendLease: true,
	}), &reported)
	return reported, err
}

// Leaving says that the sidecar of an instance stops beside its process, which holds what it has until it ends. Engines of earlier
// releases extend the lease, and no more.
func (c *Client) Leaving(ctx context.Context, workloadName, instance string, secret key.Value) (engineapi.Reported, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var reported engineapi.Reported
	err := c.write(ctx, "report/"+workloadName, engineapi.Data(leavingReport{
		engineapi.SignOfLife{Instance: instance, Secret: secret.Reveal(), ExtendLease: true}, true,
	}), &reported)
	return reported, err
}

// leavingReport is what a [engineapi.ReportRequest] is of a sidecar that stops.
type leavingReport struct {
	engineapi.SignOfLife
	Leaving bool `json:"leaving"`
}

// Leave says that an instance has ended.
func (c *Client) Leave(ctx context.Context, workloadName, instance string, secret key.Value) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	return c.write(ctx, "leave/"+workloadName, engineapi.Data(engineapi.LeaveRequest{Instance: instance, Secret: secret.Reveal()}), nil)
}

// sightings returns their age instead of when they were: clocks differ.
func sightings(all []workload.Sighting) []engineapi.Sighting {
	wire := make([]engineapi.Sighting, 0, len(all))
	for _, s := range all {
		wire = append(wire, engineapi.Sighting{Env: s.Env, Version: s.Version, Count: s.Count, LastSeen: max(time.Since(s.Last), 0).Seconds(), From: s.From})
	}
	return wire
}

// trips returns their ages instead of when they were: clocks differ. Nothing is in it that the engine would refuse, with all that the
// report says: of too many, it has the newest, and a clock that was wrong makes nobody older than may be.
func trips(all []workload.Trip) []engineapi.Trip {
	all = slices.SortedStableFunc(slices.Values(all), func(a, b workload.Trip) int { return b.Last.Compare(a.Last) })
	all = all[:min(len(all), workload.MaxTrips)]
	wire := make([]engineapi.Trip, 0, len(all))
	for _, t := range all {
		last := min(max(time.Since(t.Last), 0), workload.LongestAgo)
		first := min(max(time.Since(t.First), last), workload.LongestAgo)
		wire = append(wire, engineapi.Trip{
			Env: t.Env, Version: t.Version, Run: t.Run, Count: t.Count, FirstSeen: first.Seconds(), LastSeen: last.Seconds(), From: t.From,
		})
	}
	return wire
}

// Rotate starts a rotation of keys together.
func (c *Client) Rotate(ctx context.Context, reason string, keys ...string) (engineapi.Rotation, error) {
	var r engineapi.Rotation
	err := c.write(ctx, "rotate", engineapi.Data(engineapi.RotateKeysRequest{RotateRequest: engineapi.RotateRequest{Reason: reason, Detailed: true}, Keys: keys}), &r)
	return r, err
}

// Rotation reads one.
func (c *Client) Rotation(ctx context.Context, id string) (engineapi.Rotation, error) {
	var r engineapi.Rotation
	_, err := c.read(ctx, "rotations/"+id, url.Values{"detailed": {"true"}}, &r)
	return r, err
}

// Follow returns a rotation when its revision is another one than since, or after wait, which need not be over: without its
// instances and waves. The name is an id, what it begins with, that of a key, or "latest".
func (c *Client) Follow(ctx context.Context, name string, since int64, wait time.Duration) (engineapi.Rotation, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+answerLimit)
	defer cancel()
	var r engineapi.Rotation
	_, err := c.read(ctx, "rotations/"+name, url.Values{"since": {strconv.FormatInt(since, 10)}, "wait": {fmt.Sprintf("%ds", int(wait.Seconds()))}, "detailed": {"true"}}, &r)
	return r, err
}

// Rotations lists the ids of all, oldest first.
func (c *Client) Rotations(ctx context.Context) ([]string, error) { return c.list(ctx, "rotations") }

// Revert takes one back.
func (c *Client) Revert(ctx context.Context, id string) (engineapi.Rotation, error) {
	var r engineapi.Rotation
	err := c.write(ctx, "rotations/"+id+"/revert", map[string]any{"detailed": true}, &r)
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
		return nil, absent{fmt.Sprintf("%v: %s/%s is not there; is the engine mounted at %q?", ErrRefused, c.mount, path, c.mount), err}
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

func (c *Client) write(ctx context.Context, path string, data map[string]any, into any) error {
	secret, err := c.vault.Logical().WriteWithContext(ctx, c.mount+"/"+path, data)
	if err != nil {
		return Classify(err)
	}
	if secret == nil || into == nil {
		return nil
	}
	return decode(secret.Data, into)
}

// absent is the error of a path that is not there: it is refused.
type absent struct {
	text  string
	cause error // Vault's; nil: it gave none
}

func (a absent) Error() string { return a.text }

func (a absent) Is(target error) bool { return target == ErrRefused }

func (a absent) Unwrap() error { return a.cause }

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
