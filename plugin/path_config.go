// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

func (b *backend) pathsConfig() []*framework.Path {
	return []*framework.Path{{
		Pattern: "config",
		Fields: map[string]*framework.FieldSchema{
			"lease_ttl": {
				Type:        framework.TypeDurationSecond,
				Description: "How long the lease on a bundle lasts before it must be renewed. An instance that dies without a word counts as live for so long. Default 5m.",
			},
			"soak": {
				Type:        framework.TypeDurationSecond,
				Description: "How long a new version must work everywhere before the old one may be retired, for keys that set no soak of their own. Default 30s.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   b.operation(b.readConfig, "read", "configuration", "Read the mount-wide defaults."),
			logical.UpdateOperation: b.operation(b.writeConfig, "write", "configuration", "Change the mount-wide defaults; those not given stay."),
		},
		HelpSynopsis:    "Mount-wide defaults: lease time of bundles, soak time of rotations.",
		HelpDescription: "Changes hold for leases and rotations that begin after them.\n\n    vault write hyvve/config lease_ttl=5m soak=30s",
	}}
}

func (b *backend) readConfig(_ context.Context, e *rotation.Engine, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c := e.Config()
	return &logical.Response{Data: map[string]any{
		"lease_ttl": int64(c.LeaseTTL.Seconds()),
		"soak":      int64(c.Soak.Seconds()),
	}}, nil
}

func (b *backend) writeConfig(ctx context.Context, e *rotation.Engine, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	c := e.Config()
	if v, ok := d.GetOk("lease_ttl"); ok {
		c.LeaseTTL = time.Duration(v.(int)) * time.Second
	}
	if v, ok := d.GetOk("soak"); ok {
		c.Soak = time.Duration(v.(int)) * time.Second
	}
	if err := e.PutConfig(ctx, c); err != nil {
		return nil, err
	}
	return b.readConfig(ctx, e, req, d)
}
