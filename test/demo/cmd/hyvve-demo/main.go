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

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/demo"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform/app"
)

const help = `Usage: hyvve-demo

Rotates every key of a small HYVVE under load, on real parts, and writes what happened to build/demo/summary.json.
"make demo" builds what it needs and runs it. It takes api and agents as arguments too, which are for its own use.
`

// workloads are those of the demo, which it starts as processes of their own.
var workloads = map[string]func(context.Context, app.Options) error{"api": app.API, "agents": app.Agents}

func main() {
	args := os.Args[1:]
	if len(args) == 0 || workloads[args[0]] == nil {
		if ok, status := usage.Parse(flag.NewFlagSet("hyvve-demo", flag.ContinueOnError), args, help, os.Stdout, os.Stderr); !ok {
			os.Exit(status)
		}
	}
	ctx, stop := bed.Context()
	err := run(ctx, args)
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
		return demo.Run(ctx, os.Stdout, bed.Tool("demo", "summary.json"))
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
	return workloads[args[0]](ctx, o)
}
