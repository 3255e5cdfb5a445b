// SPDX-License-Identifier: Apache-2.0

// Command hyvve-demo runs the demo. It is the demo's workloads too, which it starts as processes of their own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/demo"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/demo/app"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/testbed"
)

func main() {
	ctx, stop := testbed.Context()
	err := run(ctx, os.Args[1:])
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted; all that it had started is stopped")
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hyvve-demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return demo.Run(ctx, os.Stdout, testbed.Tool("demo", "summary.json"))
	}
	serve, ok := map[string]func(context.Context, app.Options) error{"api": app.API, "agents": app.Agents}[args[0]]
	if !ok {
		return fmt.Errorf("%q is not wanted; run hyvve-demo without arguments (api and agents are for its own use)", args[0])
	}
	var o app.Options
	flags := flag.NewFlagSet(args[0], flag.ExitOnError)
	flags.StringVar(&o.Instance, "instance", "", "how it calls itself at servers")
	flags.StringVar(&o.Address, "address", "", "host:port to serve on")
	flags.StringVar(&o.Bundle, "bundle", "", "file that the sidecar renders")
	flags.StringVar(&o.PIDFile, "pid-file", "", "file for the process number")
	apis := flags.String("api", "", "URLs of the api's instances")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	o.API = strings.Split(*apis, ",")
	return serve(ctx, o)
}
