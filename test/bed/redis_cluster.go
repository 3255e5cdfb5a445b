// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// redisSlots is the number of slots that the masters of a cluster share (the cluster specification).
const redisSlots = 16384

// RedisCluster is some Redis servers that share the slots. Users are each server's own; they are the same at first.
type RedisCluster struct {
	Nodes []*Redis // masters in order of their slots, then those that were added

	options RedisOptions
	bed     *Bed
	busses  []int // ports that the nodes speak to each other by
}

// RedisCluster starts one of n masters, and waits until all slots are served. That takes two seconds at least: the time
// that Redis grants a master before it may write.
func (b *Bed) RedisCluster(ctx context.Context, n int, o RedisOptions) (*RedisCluster, error) {
	c := &RedisCluster{options: o, bed: b}
	password, admin := randomHex(16), randomHex(16)
	for i := range n {
		node, err := c.start(ctx, password, admin)
		if err != nil {
			return nil, err
		}
		first, last := i*redisSlots/n, (i+1)*redisSlots/n-1
		if _, err := node.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(last)); err != nil {
			return nil, err
		}
	}
	return c, c.AwaitOK(ctx)
}

// start starts a node and has it meet all that run; by hearsay alone it may take them seconds to know each other.
func (c *RedisCluster) start(ctx context.Context, password, admin string) (*Redis, error) {
	bus, err := FreePort()
	if err != nil {
		return nil, err
	}
	node, err := c.bed.newRedis(c.options, password, admin, []string{
		"cluster-enabled yes", "cluster-config-file nodes.conf", fmt.Sprintf("cluster-port %d", bus),
		"cluster-node-timeout 3000", "masteruser " + redisAdmin, "masterauth " + admin,
	})
	if err != nil {
		return nil, err
	}
	if err := node.Start(ctx); err != nil {
		return nil, err
	}
	for i, other := range c.Nodes {
		if !other.process.running() {
			continue
		}
		host, port, err := net.SplitHostPort(other.Addr)
		if err != nil {
			return nil, err
		}
		if _, err := node.Do(ctx, "CLUSTER", "MEET", host, port, strconv.Itoa(c.busses[i])); err != nil {
			return nil, err
		}
	}
	c.Nodes, c.busses = append(c.Nodes, node), append(c.busses, bus)
	return node, nil
}

// AddNode starts another server, with the users that a node has at its start, and waits until all nodes know it:
// as a replica of master, or without one as a master of no slots.
func (c *RedisCluster) AddNode(ctx context.Context, master *Redis) (*Redis, error) {
	node, err := c.start(ctx, c.Nodes[0].password, c.Nodes[0].AdminPassword)
	if err != nil {
		return nil, err
	}
	if master == nil {
		return node, c.AwaitOK(ctx)
	}
	id, err := master.Do(ctx, "CLUSTER", "MYID")
	if err != nil {
		return nil, err
	}
	err = until(ctx, "the node to know its master", func(ctx context.Context) error {
		_, err := node.Do(ctx, "CLUSTER", "REPLICATE", id)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := node.AwaitLink(ctx); err != nil {
		return nil, err
	}
	err = c.each(ctx, "all nodes to know the replica", func(ctx context.Context, n *Redis) error {
		nodes, err := n.Do(ctx, "CLUSTER", "NODES")
		if err == nil && !strings.Contains(nodes, "slave "+id) {
			err = errors.New("it does not know it as one")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return node, c.AwaitOK(ctx)
}

// AwaitOK waits until all nodes that run serve all slots and know as many nodes as there are.
func (c *RedisCluster) AwaitOK(ctx context.Context) error {
	known := fmt.Sprintf("cluster_known_nodes:%d\r", len(c.Nodes))
	return c.each(ctx, "the cluster", func(ctx context.Context, n *Redis) error {
		info, err := n.Do(ctx, "CLUSTER", "INFO")
		if err == nil && (!strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, known)) {
			err = fmt.Errorf("it is not complete: %q", info)
		}
		return err
	})
}

// each waits until check holds of every node that runs.
func (c *RedisCluster) each(ctx context.Context, what string, check func(context.Context, *Redis) error) error {
	return until(ctx, what, func(ctx context.Context) error {
		for _, n := range c.Nodes {
			if !n.process.running() {
				continue
			}
			if err := check(ctx, n); err != nil {
				return fmt.Errorf("%s: %w", n.Addr, err)
			}
		}
		return nil
	})
}

// Addrs are the addresses of all nodes.
func (c *RedisCluster) Addrs() []string {
	var addrs []string
	for _, n := range c.Nodes {
		addrs = append(addrs, n.Addr)
	}
	return addrs
}

// AdminURL is the administrator's URL of the whole: the first node's, with the others as "addr" in its query.
func (c *RedisCluster) AdminURL() string { return c.UserURL(redisAdmin, c.Nodes[0].AdminPassword) }

// UserURL is that of a user.
func (c *RedisCluster) UserURL(user, password string) string {
	return c.Nodes[0].UserURL(user, password) + "?" + url.Values{"addr": c.Addrs()[1:]}.Encode()
}
