// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// clusterSize is the smallest number of nodes that does without any one of them.
const clusterSize = 3

// Cluster is some Vault servers with one integrated storage. Its Server reaches whichever of them answers; AuditPath
// and logs are those of all.
type Cluster struct {
	Server
	Nodes []*Vault // any of them may be killed, and started again
}

// Cluster starts one, unsealed, with the engine enabled at hyvve/. All nodes vote when it returns.
func (b *Bed) Cluster(ctx context.Context, o VaultOptions) (*Cluster, error) {
	c := &Cluster{}
	var addrs []string
	for n := range clusterSize {
		v, err := b.newVault("")
		if err != nil {
			return nil, err
		}
		v.member, v.AuditPath = true, filepath.Join(b.Dir, "cluster-audit.log")
		if err := v.prepareDurable(fmt.Sprintf("node-%d", n+1)); err != nil {
			return nil, err
		}
		addrs = append(addrs, v.Addr)
		c.Nodes = append(c.Nodes, v)
	}
	first := c.Nodes[0]
	for _, v := range c.Nodes {
		if v != first {
			v.leader, v.unseal, v.Token = first.Addr, first.unseal, first.Token
			v.Client.SetToken(v.Token)
		}
		if err := v.Start(ctx); err != nil {
			return nil, err
		}
		if _, err := c.Leader(ctx); err != nil {
			return nil, err
		}
	}
	c.Addr, c.Token = strings.Join(addrs, ","), first.Token
	var err error
	if c.Client, err = client(c.Addr, ""); err != nil {
		return nil, err
	}
	c.Client.SetToken(c.Token)
	if err := c.awaitVoters(ctx); err != nil {
		return nil, err
	}
	return c, first.equip(ctx, o)
}

// awaitVoters waits until every node has a vote, so that any one may be killed. By default that takes ten seconds.
func (c *Cluster) awaitVoters(ctx context.Context) error {
	_, err := c.Client.Logical().WriteWithContext(ctx, "sys/storage/raft/autopilot/configuration", map[string]any{"server_stabilization_time": "1s"})
	if err != nil {
		return fmt.Errorf("setting up autopilot: %w", err)
	}
	return until(ctx, "all nodes to vote", func(ctx context.Context) error {
		state, err := c.Client.Sys().RaftAutopilotStateWithContext(ctx)
		if err != nil {
			return err
		}
		if state == nil || len(state.Voters) < len(c.Nodes) {
			return errors.New("some do not yet")
		}
		return nil
	})
}

// Leader waits for a node to be active, and returns it.
func (c *Cluster) Leader(ctx context.Context) (*Vault, error) {
	var leader *Vault
	err := until(ctx, "a leader", func(ctx context.Context) error {
		for _, v := range c.Nodes {
			if v.process == nil || !v.process.running() {
				continue
			}
			health, err := v.Client.Sys().HealthWithContext(ctx)
			if err == nil && health.Initialized && !health.Sealed && !health.Standby {
				leader = v
				return nil
			}
		}
		return errors.New("no node is active")
	})
	return leader, err
}

// KillLeader ends the active node and its plugins as a crash would, and returns it, to be started again.
func (c *Cluster) KillLeader(ctx context.Context) (*Vault, error) {
	leader, err := c.Leader(ctx)
	if err == nil {
		leader.Kill()
	}
	return leader, err
}

// StepDown makes the active node give up its place while it lives, waits until another has it, and returns both.
func (c *Cluster) StepDown(ctx context.Context) (before, after *Vault, err error) {
	if before, err = c.Leader(ctx); err != nil {
		return nil, nil, err
	}
	if err := before.Client.Sys().StepDownWithContext(ctx); err != nil {
		return nil, nil, err
	}
	err = until(ctx, "another leader", func(ctx context.Context) error {
		if after, err = c.Leader(ctx); err == nil && after == before {
			err = errors.New("the same node is active")
		}
		return err
	})
	return before, after, err
}

// until polls until ready says so, or ctx or a minute is over.
func until(ctx context.Context, what string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, err)
		case <-tick.C:
		}
	}
}
