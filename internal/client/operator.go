// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/url"
	"slices"
	"strconv"

	engineapi "github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
)

// Status reads all keys at a glance.
func (c *Client) Status(ctx context.Context) (engineapi.Status, error) {
	var s engineapi.Status
	return s, c.readDetailed(ctx, "status", nil, &s)
}

// Keys lists the names of the keys.
func (c *Client) Keys(ctx context.Context) ([]string, error) { return c.list(ctx, "keys") }

// Workloads lists the names of the workloads.
func (c *Client) Workloads(ctx context.Context) ([]string, error) { return c.list(ctx, "workloads") }

// Workload reads one, with its live instances.
func (c *Client) Workload(ctx context.Context, name string) (engineapi.Workload, error) {
	var w engineapi.Workload
	return w, c.readDetailed(ctx, "workloads/"+name, nil, &w)
}

// Connections lists the names of the connections.
func (c *Client) Connections(ctx context.Context) ([]string, error) {
	return c.list(ctx, "connections")
}

// Connection reads one, without secrets.
func (c *Client) Connection(ctx context.Context, name string) (engineapi.Connection, error) {
	var w engineapi.Connection
	return w, c.readDetailed(ctx, "connections/"+name, nil, &w)
}

// Journal reads a page of the journal.
func (c *Client) Journal(ctx context.Context, r engineapi.JournalRequest) (engineapi.Journal, error) {
	query := url.Values{"newest": {strconv.FormatBool(r.Newest)}}
	for name, value := range map[string]string{"after": r.After, "key": r.Key, "rotation": r.Rotation, "actor": r.Actor} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if r.Limit > 0 {
		query.Set("limit", strconv.Itoa(r.Limit))
	}
	var page engineapi.Journal
	return page, c.readDetailed(ctx, "journal", query, &page)
}

// VerifyJournal checks that no entry of the journal was changed or taken out.
func (c *Client) VerifyJournal(ctx context.Context) (engineapi.JournalVerified, error) {
	var v engineapi.JournalVerified
	return v, c.readDetailed(ctx, "journal/verify", nil, &v)
}

// Receipt reads the receipt of a rotation. The name is as [Client.Follow] takes it.
func (c *Client) Receipt(ctx context.Context, name string) (engineapi.Receipt, error) {
	var r engineapi.Receipt
	return r, c.readDetailed(ctx, "rotations/"+name+"/receipt", nil, &r)
}

// ReceiptLines reads the receipt of a rotation as lines for people.
func (c *Client) ReceiptLines(ctx context.Context, name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var lines engineapi.ReceiptLines
	if _, err := c.read(ctx, "rotations/"+name+"/receipt", nil, &lines); err != nil {
		return nil, err
	}
	var names, all []string
	for name := range lines {
		names = append(names, name)
	}
	slices.Sort(names) // their numbers have the same width
	for _, name := range names {
		all = append(all, lines[name])
	}
	return all, nil
}

// Plan asks what a rotation would do, and changes nothing.
func (c *Client) Plan(ctx context.Context, r engineapi.RotateKeysRequest) (plan engineapi.Plan, warnings []string, err error) {
	r.DryRun, r.Detailed = true, true
	warnings, err = c.ask(ctx, "rotate", r, &plan)
	return plan, warnings, err
}

// Start starts a rotation. A request whose error is [ErrUnavailable] may have started it all the same.
func (c *Client) Start(ctx context.Context, r engineapi.RotateKeysRequest) (s engineapi.RotationSummary, warnings []string, err error) {
	r.DryRun, r.Detailed = false, true
	warnings, err = c.ask(ctx, "rotate", r, &s)
	return s, warnings, err
}

// Command sends a command to a rotation: pause, resume, confirm, revert or accept-witness.
func (c *Client) Command(ctx context.Context, name, command, reason string) (s engineapi.RotationSummary, warnings []string, err error) {
	warnings, err = c.ask(ctx, "rotations/"+name+"/"+command, engineapi.RotationCommand{RotationDetail: detailed, Reason: reason}, &s)
	return s, warnings, err
}

// Escalate says that a version of a running rotation has leaked.
func (c *Client) Escalate(ctx context.Context, name string, r engineapi.EscalateRequest) (s engineapi.RotationSummary, warnings []string, err error) {
	r.RotationRequest, r.RotationDetail = engineapi.RotationRequest{}, detailed
	warnings, err = c.ask(ctx, "rotations/"+name+"/compromised", r, &s)
	return s, warnings, err
}

// Tune changes settings of a running rotation. What is absent stays.
func (c *Client) Tune(ctx context.Context, name string, r engineapi.TuneRequest) (s engineapi.RotationSummary, warnings []string, err error) {
	r.RotationRequest, r.RotationDetail = engineapi.RotationRequest{}, detailed
	warnings, err = c.ask(ctx, "rotations/"+name+"/tune", r, &s)
	return s, warnings, err
}

var detailed = engineapi.RotationDetail{Detailed: true}

// readDetailed reads a path with its facts as fields.
func (c *Client) readDetailed(ctx context.Context, path string, query url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	if query == nil {
		query = url.Values{}
	}
	query.Set("detailed", "true")
	_, err := c.read(ctx, path, query, into)
	return err
}

// ask writes a request and returns the warnings of the answer. Durations are texts: the engine takes no small numbers. An id that
// is in the path is no field.
func (c *Client) ask(ctx context.Context, path string, request, into any) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	data := engineapi.Plain(request)
	if data["id"] == "" {
		delete(data, "id")
	}
	secret, err := c.vault.Logical().WriteWithContext(ctx, c.mount+"/"+path, data)
	if err != nil || secret == nil {
		return nil, Classify(err)
	}
	return secret.Warnings, decode(secret.Data, into)
}

func (c *Client) list(ctx context.Context, path string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	secret, err := c.vault.Logical().ListWithContext(ctx, c.mount+"/"+path)
	if err != nil {
		return nil, Classify(err)
	}
	if secret == nil {
		return nil, nil
	}
	var list engineapi.List
	return list.Keys, decode(secret.Data, &list)
}
