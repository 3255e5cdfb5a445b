// SPDX-License-Identifier: Apache-2.0

// Command hyvve-injector is the webhook of Kubernetes that puts the sidecar into pods.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject/webhook"
)

// memoryLimit is where the collector begins to work harder: of what the injector takes, a third is the program itself.
const memoryLimit = 40 << 20

func main() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	if err := proc.Harden(); err != nil {
		fmt.Fprintln(os.Stderr, "hyvve-injector:", err) // and continues: some sandbox forbids it
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	os.Exit(usage.Run(ctx, newCommand(os.Environ(), run), os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, c *config) error {
	log := usage.Logger(os.Stderr, c.level)
	klog.SetSlogLogger(log)
	source, err := c.source(log)
	if err != nil {
		return err
	}
	reviews, err := listen(ctx, "--listen", c.listen)
	if err != nil {
		return err
	}
	status, err := listen(ctx, "--status-listen", c.statusListen)
	if err != nil {
		return err
	}
	log.Info("injector started", "version", version.Version, "listen", reviews.Addr().String(), "status", status.Addr().String(), "replica", c.managed.Replica)
	s := &webhook.Server{Options: c.inject, Own: c.managed.Namespace, Certs: source, Drain: c.drain, Log: log}
	err = s.Run(ctx, reviews, status)
	log.Info("injector ended")
	return err
}

func listen(ctx context.Context, flag, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; end what listens there, or give another address", flag, err)
	}
	return l, nil
}

// kubernetes is how the API server is reached.
func (c *config) kubernetes() (config *rest.Config, err error) {
	if c.kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	} else {
		config, err = rest.InClusterConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("the API server cannot be found: %w; outside of a pod name it by --kubeconfig, or give a certificate by --cert-dir", err)
	}
	config.UserAgent = "hyvve-injector/" + version.Version
	config.QPS, config.Burst = 20, 40
	return config, nil
}
