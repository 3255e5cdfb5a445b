// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject/certs"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/inject/webhook"
)

const help = `Usage: hyvve-injector --image=IMAGE --vault-addr=URL [flags]

The webhook of Kubernetes that puts the sidecar into pods which ask for it by annotations (docs/annotations.md). It makes and
rotates its own serving certificate, together with its other replicas, unless --cert-dir names one. docs/injector.md describes
it. Each flag may come from the environment instead, as HYVVE_INJECTOR_ and its name, such as HYVVE_INJECTOR_VAULT_ADDR.
`

const (
	prefix        = "HYVVE_INJECTOR_"
	unlocked      = "none"
	namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
)

// config is what the command line and the environment say.
type config struct {
	inject                                                     inject.Options
	managed                                                    certs.Options
	locked, listen, statusListen, certDir, service, kubeconfig string
	podReaders                                                 string
	drain                                                      time.Duration
	level                                                      slog.Level
}

func (c *config) define(flags *pflag.FlagSet) (logLevel *string) {
	text := func(at *string, name, value, usage string) { flags.StringVar(at, name, value, usage) }
	text(&c.inject.Image, "image", "", "`IMAGE` of the sidecar that is injected")
	text(&c.inject.ImagePullPolicy, "image-pull-policy", "", "`POLICY` of that image: Always, IfNotPresent or Never; as Kubernetes chooses otherwise")
	text(&c.inject.VaultAddress, "vault-addr", "", "`URL` of Vault as pods reach it; of a cluster's nodes with commas between them")
	text(&c.inject.VaultNamespace, "vault-namespace", "", "`NAME` of the namespace in Vault, where there is one")
	text(&c.inject.VaultMount, "mount", "hyvve", "`PATH` of the engine in Vault")
	text(&c.inject.AuthMount, "auth-mount", "kubernetes", "`PATH` of Vault's kubernetes method")
	text(&c.inject.Audience, "audience", "vault", "`NAME` for which pods' tokens are made")
	text(&c.inject.CAConfigMap, "ca-config-map", "", "`NAME` of a ConfigMap in each pod's namespace with ca.crt, of Vault's certificate")
	text(&c.locked, "locked", strings.Join(inject.LockedByDefault(), ","), "`NAMES` of annotations that pods must not set, with commas between them; none: they may set all")
	text(&c.podReaders, "pod-readers", "", "`ACCOUNTS` that may get pods in their own namespace, as NAMESPACE/NAME with commas between them; pods of others are warned if they need that")
	text(&c.listen, "listen", ":9443", "`ADDRESS` for API servers to come to, by TLS")
	text(&c.statusListen, "status-listen", ":8080", "`ADDRESS` of /healthz, /readyz and /metrics")
	flags.DurationVar(&c.drain, "drain", 10*time.Second, "`DURATION` for which reviews are still answered after SIGTERM, while it is unready already")
	logLevel = flags.String("log-level", "info", "`LEVEL`: debug, info, warn or error")
	text(&c.certDir, "cert-dir", "", "`DIRECTORY` with tls.crt and tls.key, as of cert-manager; without it certificates are made here")
	text(&c.managed.Namespace, "namespace", inNamespace(), "`NAME` of the injector's own namespace, which it never touches")
	host, _ := os.Hostname() // none: it is said that --replica is missing
	text(&c.managed.Replica, "replica", host, "`NAME` of this replica: the pod's")
	text(&c.service, "service", "hyvve-injector", "`NAME` of the Service that API servers come by")
	text(&c.managed.Configuration, "configuration", "hyvve-injector", "`NAME` of the MutatingWebhookConfiguration whose caBundle is set")
	text(&c.managed.Secret, "secret", "hyvve-injector-certificates", "`NAME` of the Secret that keeps the certificates")
	text(&c.managed.Lease, "lease", "hyvve-injector", "`NAME` of the Lease by which replicas elect who makes them")
	flags.DurationVar(&c.managed.LeaseDuration, "lease-duration", 15*time.Second, "`DURATION` for which an elected replica that says nothing more is still one")
	p := &c.managed.Policy
	flags.DurationVar(&p.CALifetime, "ca-lifetime", 365*24*time.Hour, "`DURATION` of an authority; the next takes over after two thirds")
	flags.DurationVar(&p.Lifetime, "cert-lifetime", 30*24*time.Hour, "`DURATION` of a serving certificate; the next is made after two thirds")
	flags.DurationVar(&p.Propagation, "ca-propagation", 2*time.Minute, "`DURATION` in which all API servers learn of a new caBundle")
	flags.DurationVar(&p.RetireAfter, "ca-retire-after", time.Hour, "`DURATION` for which an old authority is accepted at least after the new one took over")
	text(&c.kubeconfig, "kubeconfig", "", "`FILE` that says how to reach the API server; as pods do otherwise")
	return logLevel
}

// inNamespace is the one that this runs in, if it runs in a pod.
func inNamespace() string {
	name, _ := os.ReadFile(namespaceFile) // none: it is said that --namespace is missing
	return strings.TrimSpace(string(name))
}

// newCommand returns hyvve-injector, which reads flags, and under them the environment, and then runs.
func newCommand(environ []string, run func(context.Context, *config) error) *cobra.Command {
	c := &config{}
	var logLevel *string
	cmd := usage.WithVersion(usage.New("hyvve-injector", "", help, func(cmd *cobra.Command, _ []string) error {
		err := usage.Environment(cmd.Flags(), prefix, environ, nil)
		if err == nil {
			err = c.complete(*logLevel)
		}
		if err != nil {
			return usage.Wrong(err)
		}
		return run(cmd.Context(), c)
	}), version.Version)
	logLevel = c.define(cmd.Flags())
	return cmd
}

// complete checks everything that can be, and says all that is wrong.
func (c *config) complete(logLevel string) error {
	var errs []error
	if c.locked != unlocked {
		c.inject.Locked = strings.FieldsFunc(c.locked, func(r rune) bool { return r == ',' || r == ' ' })
		if len(c.inject.Locked) == 0 { // as from a variable that is not set
			errs = append(errs, fmt.Errorf("--locked is empty; name annotations, as image,audience, or write %s to lock none", unlocked))
		}
	}
	c.inject.PodReaders = strings.FieldsFunc(c.podReaders, func(r rune) bool { return r == ',' || r == ' ' })
	if err := c.inject.Validate(); err != nil {
		errs = append(errs, err)
	}
	if err := c.level.UnmarshalText([]byte(logLevel)); err != nil {
		errs = append(errs, fmt.Errorf("--log-level: %q is not known; write debug, info, warn or error", logLevel))
	}
	if c.drain < 0 {
		errs = append(errs, fmt.Errorf("--drain: %s is negative; write 0s or more", c.drain))
	}
	for flag, address := range map[string]string{"--listen": c.listen, "--status-listen": c.statusListen} {
		if _, _, err := net.SplitHostPort(address); err != nil {
			errs = append(errs, fmt.Errorf("%s: %q is no address; write one such as :9443 or 127.0.0.1:9443", flag, address))
		}
	}
	switch {
	case c.managed.Namespace == "":
		errs = append(errs, errors.New("--namespace is missing: name the one that the injector runs in, whose pods it never touches"))
	case c.certDir == "":
		c.managed.Policy.Names = c.names()
		errs = append(errs, c.managed.Validate())
	}
	return errors.Join(errs...)
}

// names are what the serving certificate is for: the service, and the address to listen at, if it is one machine's own.
func (c *config) names() []string {
	names := webhook.Names(c.managed.Namespace, c.service)
	if host, _, err := net.SplitHostPort(c.listen); err == nil && host != "" {
		if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
			names = append(names, host)
		}
	}
	return names
}

// source is where the serving certificate comes from.
func (c *config) source(log *slog.Logger) (certs.Source, error) {
	if c.certDir != "" {
		return certs.NewFiles(c.certDir, log)
	}
	kubernetes, err := c.kubernetes()
	if err != nil {
		return nil, err
	}
	return certs.NewManaged(kubernetes, c.managed, log)
}
