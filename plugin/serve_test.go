// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/logical"
	sdkplugin "github.com/hashicorp/vault/sdk/plugin"
	"google.golang.org/grpc/metadata"
)

// built builds the plugin's binary, as version v9.8.7.
func built(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plugin")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X github.com/hyvve/vault-plugin-secrets-hyvve/internal/version.Version=v9.8.7", "-o", path, "./cmd/vault-plugin-secrets-hyvve")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return path
}

// The built plugin, started by go-plugin's own client without Vault: handshake, multiplexing, running version, a
// request.
func TestBuiltPluginServes(t *testing.T) {
	path := built(t)
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), pluginutil.PluginAutoMTLSEnv+"=true", pluginutil.PluginVaultVersionEnv+"=1.21.0")
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  sdkplugin.HandshakeConfig,
		VersionedPlugins: map[int]goplugin.PluginSet{5: {"backend": &sdkplugin.GRPCBackendPlugin{}}},
		Cmd:              cmd, AutoMTLS: true, Logger: hclog.NewNullLogger(),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
	})
	defer client.Kill()
	protocol, err := client.Client()
	if err != nil {
		t.Fatal(err)
	}
	if v := client.NegotiatedVersion(); v != 5 {
		t.Errorf("protocol version %d was negotiated, want 5", v)
	}
	connection, ok := protocol.(*goplugin.GRPCClient)
	if !ok {
		t.Fatalf("the client speaks %T", protocol)
	}
	multiplexed, err := pluginutil.MultiplexingSupported(t.Context(), connection.Conn, "hyvve")
	if err != nil || !multiplexed {
		t.Errorf("multiplexing: %v, %v", multiplexed, err)
	}

	for _, mount := range []string{"one", "two"} { // two mounts in one process
		ctx := metadata.AppendToOutgoingContext(context.Background(), "multiplex_id", mount)
		raw, err := protocol.Dispense("backend")
		if err != nil {
			t.Fatal(err)
		}
		backend, ok := raw.(logical.Backend)
		if !ok {
			t.Fatalf("the plugin serves a %T", raw)
		}
		storage := &logical.InmemStorage{}
		if err := backend.Setup(ctx, &logical.BackendConfig{
			Logger: hclog.NewNullLogger(), StorageView: storage, BackendUUID: mount,
			System: &logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: time.Hour},
		}); err != nil {
			t.Fatal(err)
		}
		resp, err := backend.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "config", Storage: storage})
		if err != nil || resp.IsError() || resp.Data["lease_ttl"] == nil {
			t.Errorf("mount %s: %v, %v", mount, resp, err)
		}
		version, err := logical.NewPluginVersionClient(connection.Conn).Version(ctx, &logical.Empty{})
		if err != nil || version.PluginVersion != "v9.8.7" {
			t.Errorf("mount %s: the running version is %v, %v", mount, version, err)
		}
		backend.Cleanup(ctx)
	}
}

func TestRunningVersion(t *testing.T) {
	b := newBackendTest(t)
	if v := b.backend.(logical.PluginVersioner).PluginVersion().Version; !strings.HasPrefix(v, "v") {
		t.Errorf("the running version is %q", v)
	}
}

func TestCommandLine(t *testing.T) {
	path := built(t)
	output, err := exec.CommandContext(t.Context(), path, "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(output), "v9.8.7") {
		t.Errorf("--version: %v, %s", err, output)
	}
	output, err = exec.CommandContext(t.Context(), path, "--wrong").CombinedOutput()
	if err == nil || !strings.Contains(string(output), "started by Vault") {
		t.Errorf("--wrong: %v, %s", err, output)
	}
}
