// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/watch"
)

const help = `Usage: hyvve-sidecar proxy --listen=ADDRESS --upstream=URL --key=NAME --bundle=FILE [flags]

Stands before an application that reads one token when it starts, accepts every token on the accept-list of a bundle file,
and hands the application its own. The file is rendered by something else, such as another sidecar (render "bundle"), and
followed. Nothing is reported; "hyvve-sidecar agent" with a proxy block does that, too.
`

// NewCommand returns "hyvve-sidecar proxy".
func NewCommand() *cobra.Command {
	var s config.ProxyBlock
	var bundle string
	cmd := usage.New("hyvve-sidecar proxy", "accept every accepted token before an application that holds one", help, func(cmd *cobra.Command, _ []string) error {
		dir := ""
		if bundle != "" {
			dir = filepath.Dir(bundle)
		}
		k, upstream, errs := s.Check(dir)
		if !filepath.IsAbs(bundle) {
			errs = append(errs, errors.New("bundle is missing, or not an absolute path; name the file with the accept-list"))
		}
		for n, err := range errs { // each begins with the name of a setting
			errs[n] = fmt.Errorf("--%w", err)
		}
		if len(errs) > 0 {
			return usage.Wrong(errors.Join(errs...))
		}
		p := New(Options{Upstream: upstream, Keys: []Key{k}, Requests: s.MaxRequests, Log: usage.Logger(cmd.ErrOrStderr(), slog.LevelInfo)})
		return p.follow(cmd.Context(), s.Listen, bundle)
	})
	flags := cmd.Flags()
	flags.StringVar(&s.Listen, "listen", "", "`ADDRESS` for clients to come to, such as 127.0.0.1:8081")
	flags.StringVar(&s.Upstream, "upstream", "", "`URL` of the application, such as http://127.0.0.1:3000")
	flags.StringVar(&s.Key, "key", "", "`NAME` of the key in the bundle, such as AGENT_SERVICE_TOKEN")
	flags.StringVar(&s.Header, "header", "", "`NAME` of the header that holds the token; Authorization, with Bearer, otherwise")
	flags.StringVar(&bundle, "bundle", "", "`FILE` of a bundle, in JSON")
	flags.StringVar(&s.State, "state", "", "`FILE` to keep what the application may hold; beside the bundle otherwise")
	flags.IntVar(&s.MaxRequests, "max-requests", config.ProxyRequests, "`NUMBER` of requests that may be under way")
	return cmd
}

// follow serves, and loads the bundle whenever it changes, until ctx ends.
func (p *Proxy) follow(ctx context.Context, address, bundle string) error {
	if err := p.Restore(); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("%w; end what listens there, or give another --listen", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx, l); cancel() }()
	take := func(context.Context) {
		b, err := readBundle(bundle)
		if err == nil {
			err = p.Take(b)
		}
		if err != nil {
			p.log.Error("bundle not taken up; tokens are accepted as before", "error", err)
			return
		}
		p.log.Info("bundle taken up", "etag", b.Etag)
	}
	o := watch.Options{
		Warn:    func(err error) { p.log.Warn("the bundle is harder to follow than it should be", "error", err) },
		Started: func() { take(ctx) },
	}
	err = watch.Files(ctx, []string{bundle}, o, take)
	cancel()
	return errors.Join(err, <-served)
}

// readBundle reads what render "bundle" writes.
func readBundle(path string) (client.Bundle, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the operator names it
	if err != nil {
		return client.Bundle{}, err
	}
	var plain api.Bundle
	if json.Unmarshal(data, &plain) != nil { // the parser's own error may quote what the file holds
		return client.Bundle{}, fmt.Errorf("%s is not a bundle in JSON; let render \"bundle\" write it", path)
	}
	b, err := client.Opaque(plain)
	if err != nil {
		return client.Bundle{}, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}
