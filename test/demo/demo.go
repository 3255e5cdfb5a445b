// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	facts "github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform"
)

// Standard is the demo's world: 2 000 envelopes.
func Standard() platform.Size {
	return platform.Size{Instances: 2, Durable: true, Seeding: bed.Seeding{Providers: 800, Servers: 350, Legacy: 50, Connections: 350, Users: 450}}
}

// demo is one run.
type demo struct {
	world   *platform.World
	out     io.Writer
	begun   time.Time
	summary Summary
}

// Run builds the world, rotates everything under load, and writes what happened to out and to summaryPath. It fails if
// any request failed, any row does not open, or any log holds a secret.
func Run(ctx context.Context, out io.Writer, summaryPath string) error {
	d := &demo{out: out, begun: time.Now()}
	b, err := bed.New("demo", prefixed{d})
	if err != nil {
		return err
	}
	err = d.run(ctx, b)
	if d.world != nil && err == nil {
		err = d.conclude(summaryPath)
	}
	if closing := b.Close(); err == nil {
		err = closing
	}
	return err
}

// prefixed puts the time before each line.
type prefixed struct{ d *demo }

func (p prefixed) Write(text []byte) (int, error) {
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		_, _ = fmt.Fprintf(p.d.out, "%6.1fs  %s\n", time.Since(p.d.begun).Seconds(), line)
	}
	return len(text), nil
}

func (d *demo) say(format string, args ...any) {
	_, _ = fmt.Fprintf(prefixed{d}, format+"\n", args...)
}

func (d *demo) run(ctx context.Context, b *bed.Bed) error {
	size := Standard()
	w, err := platform.Build(ctx, b, size)
	if err != nil {
		return err
	}
	d.world = w
	d.say("starting api and agents, %d instances each, a sidecar beside every one", size.Instances)
	if err := w.StartWorkloads(ctx, size.Instances); err != nil {
		return err
	}
	newest, err := w.Audit(ctx)
	if err != nil {
		return err
	}
	load := w.StartLoad(ctx)
	defer load.Stop()
	d.say("load is on: %d agents calling without a pause, sessions, rows read and saved", size.Instances)
	for _, act := range []func(context.Context) error{d.rotateAll, d.servers, d.leaseDriven, d.automatic, d.revert} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	if d.summary.Requests, err = load.Counts(ctx); err != nil {
		return err
	}
	load.Stop()
	return d.examine(ctx, newest())
}

// rotateAll rotates every key through the engine. Those without rows go one after the other while the rows of the
// master key are staged.
func (d *demo) rotateAll(ctx context.Context) error {
	d.say("")
	d.say("1. Every token: vault write hyvve/rotate key=…")
	master, err := d.start(ctx, "encryption-master-key")
	if err != nil {
		return err
	}
	for _, name := range []string{"agent-service-token", "agno-api-key", "jwt-secret", "metrics-api-key"} {
		r, err := d.start(ctx, name)
		if err == nil {
			err = d.follow(ctx, r.ID, "done")
		}
		if err != nil {
			return err
		}
	}
	return d.follow(ctx, master.ID, "done")
}

// servers rotates the URLs of both servers together, and shows who has sessions there.
func (d *demo) servers(ctx context.Context) error {
	d.say("")
	d.say("2. The credentials at PostgreSQL and Redis, in one group: vault write hyvve/rotate keys=database-url,redis-url")
	end := d.world.WatchLogins(ctx, func(env string, logins []platform.Login) {
		var words []string
		for _, l := range logins {
			state := "can log in"
			if !l.Valid {
				state = "cannot log in"
			}
			words = append(words, fmt.Sprintf("%s %s, sessions: %d", l.User, state, l.Sessions))
		}
		d.say("  %-20s %s", env, strings.Join(words, " | "))
	})
	r, err := d.start(ctx, "database-url", "redis-url")
	if err == nil {
		err = d.follow(ctx, r.ID, "done")
	}
	results, watching := end()
	d.summary.Logins = results
	return errors.Join(err, watching)
}

func (d *demo) start(ctx context.Context, names ...string) (api.Rotation, error) {
	name := strings.Join(names, ",")
	r, err := d.world.Engine.Rotate(ctx, "demo", names...)
	if err != nil {
		return r, fmt.Errorf("rotating %s: %w", name, err)
	}
	d.say("%-22s started: %s", name, r.State)
	return r, nil
}

// follow shows a rotation until it ends, and notes it.
func (d *demo) follow(ctx context.Context, id, want string) error {
	r, err := platform.Follow(ctx, d.world.Engine, id, func(r api.Rotation) {
		d.say("%-22s %-22s %s", strings.Join(r.Keys, ","), strings.TrimSuffix(r.State+" "+r.Step, " "), platform.Short(r.NextGate))
	})
	if err != nil {
		return err
	}
	if r.State != want {
		return fmt.Errorf("rotation %s of %s ended as %s, not %s", id, strings.Join(r.Keys, ","), r.State, want)
	}
	d.summary.Rotations = append(d.summary.Rotations, summarize(r))
	return nil
}

func (d *demo) define(ctx context.Context, name string, fields map[string]any) error {
	_, err := d.world.Server.Client.Logical().WriteWithContext(ctx, "hyvve/keys/"+name, fields)
	if err != nil {
		return fmt.Errorf("changing %s: %w", name, err)
	}
	return nil
}

// awaitStarted waits for a rotation of a key that is newer than those known.
func (d *demo) awaitStarted(ctx context.Context, name string, known int) (api.Rotation, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		ids, err := d.world.Engine.Rotations(ctx)
		if err != nil {
			return api.Rotation{}, err
		}
		for _, id := range ids[min(known, len(ids)):] {
			r, err := d.world.Engine.Rotation(ctx, id)
			if err == nil && len(r.Keys) == 1 && r.Keys[0] == name {
				return r, nil
			}
		}
		select {
		case <-ctx.Done():
			return api.Rotation{}, fmt.Errorf("no rotation of %s has started by itself", name)
		case <-ticker.C:
		}
	}
}

// automatic lets a key rotate by its period.
func (d *demo) automatic(ctx context.Context) error {
	d.say("")
	d.say("4. By period: jwt-secret, rotation_period=10s")
	known, err := d.world.Engine.Rotations(ctx)
	if err != nil {
		return err
	}
	if err := d.define(ctx, "jwt-secret", map[string]any{"rotation_period": "10s"}); err != nil {
		return err
	}
	r, err := d.awaitStarted(ctx, "jwt-secret", len(known))
	if err != nil {
		return err
	}
	d.say("jwt-secret             started by itself: trigger=%s", r.Trigger)
	if r.Trigger != "period" {
		return fmt.Errorf("rotation %s was started by %s, not by its period", r.ID, r.Trigger)
	}
	if err := d.define(ctx, "jwt-secret", map[string]any{"rotation_period": 0}); err != nil {
		return err
	}
	return d.follow(ctx, r.ID, "done")
}

// leaseDriven: a consumer without a sidecar reads agents' bundle. Its lease ends with the version's life; then the key
// rotates, and waits for the lease.
func (d *demo) leaseDriven(ctx context.Context) error {
	d.say("")
	d.say("3. By lease: a reader without a sidecar holds agno-api-key, whose version lives for 12s from here; better-auth-secret meanwhile")
	status, err := d.world.Server.Client.Logical().ReadWithDataWithContext(ctx, "hyvve/keys/agno-api-key", url.Values{"detailed": {"true"}})
	if err != nil {
		return err
	}
	age, err := ageOfCurrent(status.Data)
	if err != nil {
		return err
	}
	known, err := d.world.Engine.Rotations(ctx)
	if err != nil {
		return err
	}
	period := int((age + 12*time.Second).Seconds())
	if err := d.define(ctx, "agno-api-key", map[string]any{"rotation_period": fmt.Sprintf("%ds", period)}); err != nil {
		return err
	}
	reader, err := d.world.Server.Client.Logical().ReadWithContext(ctx, "hyvve/creds/agents")
	if err != nil {
		return err
	}
	d.say("agno-api-key           the reader's lease lasts %ds, not the 60s of hyvve/config: it may not outlive the version", reader.LeaseDuration)
	if reader.LeaseDuration > 12 {
		return fmt.Errorf("a lease of %d s outlives a version whose life is over in 12 s", reader.LeaseDuration)
	}
	auth, err := d.start(ctx, "better-auth-secret")
	if err != nil {
		return err
	}
	if err := d.follow(ctx, auth.ID, "done"); err != nil {
		return err
	}
	r, err := d.awaitStarted(ctx, "agno-api-key", len(known))
	if err != nil {
		return err
	}
	if err := d.define(ctx, "agno-api-key", map[string]any{"rotation_period": 0}); err != nil {
		return err
	}
	if _, err := d.world.Server.Client.Sys().RenewWithContext(ctx, reader.LeaseID, 0); err == nil && r.State != "accepting" {
		return errors.New("the reader's lease was renewed although it should hold another bundle")
	}
	return d.follow(ctx, r.ID, "done")
}

func ageOfCurrent(data map[string]any) (time.Duration, error) {
	versions, _ := data["versions"].([]any)
	for _, v := range versions {
		version, _ := v.(map[string]any)
		if version["state"] != "current" {
			continue
		}
		text, _ := version["created_time"].(string)
		created, err := time.Parse(time.RFC3339Nano, text)
		return time.Since(created), err
	}
	return 0, errors.New("no current version")
}

// revert rotates the master key once more, and takes that back when its rows are under the new key already.
func (d *demo) revert(ctx context.Context) error {
	d.say("")
	d.say("5. Revert: encryption-master-key is rotated again, and taken back when all rows are under the new key")
	if err := d.define(ctx, "encryption-master-key", map[string]any{"soak": "1h"}); err != nil {
		return err
	}
	r, err := d.start(ctx, "encryption-master-key")
	if err != nil {
		return err
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for r.State != "soaking" {
		if r, err = d.world.Engine.Rotation(ctx, r.ID); err != nil {
			return err
		}
		if r.Ended() {
			return fmt.Errorf("rotation %s ended as %s before it was reverted", r.ID, r.State)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	d.say("encryption-master-key  soaking: vault write -f hyvve/rotations/%s/revert", r.ID)
	if _, err := d.world.Engine.Revert(ctx, r.ID); err != nil {
		return err
	}
	return d.follow(ctx, r.ID, "reverted")
}

// examine looks at rows and logs when all is over.
func (d *demo) examine(ctx context.Context, current map[string]key.Value) error {
	d.say("")
	d.say("checking all rows and all logs")
	for _, env := range []string{facts.MasterKey, facts.BetterAuth} {
		if v, ok := current[env]; !ok || v.Equal(d.world.Initial[env]) {
			return fmt.Errorf("%s still has its initial value", env)
		}
	}
	var err error
	if d.summary.Columns, err = d.world.VerifyRows(ctx, current); err != nil {
		return err
	}
	d.summary.Leaks, d.summary.Places, d.summary.Secrets, err = d.world.Leaks(ctx)
	return err
}
