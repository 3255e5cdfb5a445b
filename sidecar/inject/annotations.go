// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// settings are what annotations and options say together.
type settings struct {
	file       config.File // as the sidecar is to be configured; paths are put in later
	auth       config.AuthBlock
	formats    []config.RenderBlock // paths are names below the directory
	templates  []config.RenderBlock
	keys       []string
	accepts    bool
	previous   bool
	mode       string
	reload     config.ReloadBlock
	health     []string
	check      config.HealthBlock
	address    string // of tcp
	metricsURL string
	exec       string // container
	execBlock  config.ExecBlock
	containers []string
	initToo    bool
	gate       string

	caConfigMap, caSecret, caKey string

	proxyRequests int // 0: the default

	audience   string
	tokenLife  int64 // seconds
	image      string
	pullPolicy corev1.PullPolicy
	resources  corev1.ResourceRequirements
	volumeSize resource.Quantity
	user       *int64
	group      *int64
	statusPort int32
	logLevel   string
}

// annotation is one of the table from which parsing, errors and docs/annotations.md come.
type annotation struct {
	name     string // below Domain; one that ends with a dot continues with a name of the user's
	takes    string
	standard string // what holds without it, in words
	text     string
	set      func(s *settings, name, value string) error
}

// Names that the code asks for besides the table.
const (
	injectName   = "inject"
	injectedName = "injected"
	workloadName = "workload"
	templateName = "template."
	gateName     = "start-gate"
)

// What holds containers back until their keys are there.
const (
	gateProbe     = "startup-probe"
	gatePostStart = "post-start"
)

// table returns all annotations, in the order of the documentation. It is a function since parsing refers to it again.
func table() []annotation {
	return slices.Concat(
		[]annotation{{name: injectName, takes: "`true` or `false`", standard: "`false`", text: "Whether the pod gets a sidecar. Any other annotation without it is refused, so that a slip does not mean a pod without keys."}},
		vaultTable(), fileTable(), reloadTable(), healthTable(), otherTable(),
	)
}

func vaultTable() []annotation {
	return []annotation{
		text(workloadName, "a name", "required", "The workload that the pod is an instance of, as in `hyvve/workloads/`.", func(s *settings) *string { return &s.file.Workload }),
		text("role", "a name", "the workload", "Role of Vault's kubernetes method to log in as.", func(s *settings) *string { return &s.auth.Role }),
		text("auth-mount", "a path", "the injector's, `kubernetes`", "Where that method is mounted, without `auth/`.", func(s *settings) *string { return &s.auth.Mount }),
		text("vault-addr", "a URL", "the injector's", "Address of Vault, or those of its nodes with commas between them.", func(s *settings) *string { return &s.file.Vault.Address }),
		text("vault-namespace", "a path", "the injector's", "Namespace of Vault Enterprise.", func(s *settings) *string { return &s.file.Vault.Namespace }),
		text("mount", "a path", "the injector's, `hyvve`", "Where the engine is mounted.", func(s *settings) *string { return &s.file.Vault.Mount }),
		text("ca-configmap", "a name", "the injector's", "ConfigMap of the pod's namespace with the authority of Vault's certificate.", func(s *settings) *string { return &s.caConfigMap }),
		text("ca-secret", "a name", "none", "Secret of the pod's namespace with it, in place of a ConfigMap.", func(s *settings) *string { return &s.caSecret }),
		text("ca-key", "a key", "`ca.crt`", "Key of that ConfigMap or Secret.", func(s *settings) *string { return &s.caKey }),
		text("vault-server-name", "a name", "that of the address", "Name that Vault's certificate must have.", func(s *settings) *string { return &s.file.Vault.ServerName }),
		text("audience", "a text", "the injector's, `vault`", "Audience of the token that the sidecar logs in with.", func(s *settings) *string { return &s.audience }),
		{name: "token-lifetime", takes: "seconds, 600 or more", standard: "`3600`", text: "Life of that token, which the kubelet replaces in time.", set: func(s *settings, _, v string) (err error) {
			if s.tokenLife, err = strconv.ParseInt(v, 10, 64); err != nil || s.tokenLife < 600 || s.tokenLife > 1<<32 {
				return errors.New("write a number of seconds, 600 or more")
			}
			return nil
		}},
	}
}

func fileTable() []annotation {
	return []annotation{
		{name: "render", takes: "`FORMAT` or `FORMAT:NAME`, with commas between several", standard: "`dotenv`; nothing beside `exec` or a template", text: "Files to render below `/run/hyvve/keys`. Formats are `dotenv` (`.env`), `docker` (`docker.env`), `json` (`secrets.json`), `bundle` (`bundle.json`) and `files` (a directory `values`); in parentheses the names if none is given. `none` renders nothing.", set: setRender},
		{name: templateName, takes: "the text of a template", standard: "none", text: "`hyvve.app/template.NAME` renders a file NAME from a template ([templates.md](templates.md)).", set: func(s *settings, name, v string) error {
			if err := fileName(name); err != nil {
				return err
			}
			s.templates = append(s.templates, config.RenderBlock{Format: string(render.Template), Path: name, Template: v})
			return nil
		}},
		{name: "keys", takes: "environment names, with commas between them", standard: "all", text: "Which keys to render, or to put into the environment (`exec`).", set: func(s *settings, _, v string) error {
			s.keys = list(v)
			for _, name := range s.keys {
				if err := key.ValidateEnv(name); err != nil {
					return err
				}
			}
			return nil
		}},
		truth("accepts", "Adds `NAME_ACCEPTS`: every value to accept, newest first.", func(s *settings) *bool { return &s.accepts }),
		truth("previous", "Adds `NAME_PREVIOUS`: the second of them, while there is one.", func(s *settings) *bool { return &s.previous }),
		text("mode", "octal", "`0600`; `0640` where containers read as a group", "Mode of the files.", func(s *settings) *string { return &s.mode }),
		{name: "containers", takes: "names, with commas between them", standard: "all; with `exec` and no files, that one", text: "Containers that see the files.", set: func(s *settings, _, v string) error {
			s.containers = list(v)
			return nil
		}},
		truth("init-containers", "Whether the pod's own init containers see the files, too: the sidecar starts before them then.", func(s *settings) *bool { return &s.initToo }),
		choice("start-gate", []string{gateProbe, gatePostStart}, "`startup-probe`", "What holds the containers back until their keys are there: the sidecar's startup probe, or its postStart hook, with which a pod starts a second earlier, and is worse to handle while Vault is away ([kubernetes.md](kubernetes.md#what-it-costs)).", func(s *settings) *string { return &s.gate }),
		quantity("volume-size", "`16Mi`", "Size of the volume in memory that holds the files.", func(s *settings) *resource.Quantity { return &s.volumeSize }),
	}
}

func reloadTable() []annotation {
	return []annotation{
		choice("reload", []string{"none", "signal", "http"}, "`none`: the workload looks at its files by itself", "How the workload is told of a change. A command is not possible: the image of the sidecar holds nothing else.", func(s *settings) *string { return &s.reload.Method }),
		text("process", "a program's name", "none", "With `signal`: which process, by the name of its program and/or its command line.", func(s *settings) *string { return &s.reload.Process }),
		{name: "cmdline", takes: "a regular expression", standard: "none", text: "With `signal`: found in the process's command line.", set: func(s *settings, _, v string) error {
			s.reload.Cmdline = v
			return pattern(v)
		}},
		text("signal", "a name", "`SIGHUP`", "With `signal`: which one.", func(s *settings) *string { return &s.reload.Signal }),
		text("reload-url", "a URL", "required with `http`", "With `http`: what is asked, such as `http://127.0.0.1:3000/reload`.", func(s *settings) *string { return &s.reload.URL }),
		text("reload-method", "a method of HTTP", "`POST`", "With `http`: how.", func(s *settings) *string { return &s.reload.HTTPMethod }),
		text("reload-timeout", "a duration", "`30s`", "How long a reload may take.", func(s *settings) *string { return &s.reload.Timeout }),
		text("exec", "a container's name", "none", "Runs that container's command under `hyvve-sidecar exec`: its keys are in its environment, and it is restarted when they change. There is no container of the sidecar then.", func(s *settings) *string { return &s.exec }),
		choice("exec-on-change", []string{"restart", "signal", "none"}, "`restart`", "With `exec`: what a change does.", func(s *settings) *string { return &s.execBlock.OnChange }),
		text("exec-signal", "a name", "`SIGHUP`", "With `exec-on-change: signal`: which one.", func(s *settings) *string { return &s.execBlock.Signal }),
		text("exec-stop-signal", "a name", "`SIGTERM`", "With `exec`: which signal stops the workload for a restart.", func(s *settings) *string { return &s.execBlock.StopSignal }),
		text("exec-stop-timeout", "a duration", "`10s`", "With `exec`: how long the workload may take to stop.", func(s *settings) *string { return &s.execBlock.StopTimeout }),
		truth("exec-overlap", "With `exec`: the next process is up before the one before is stopped. Needs `health-expect-etag`.", func(s *settings) *bool { return &s.execBlock.Overlap }),
	}
}

func healthTable() []annotation {
	return []annotation{
		{name: "health", takes: "of `none`, `http`, `tcp`, `prometheus`, with commas between several", standard: "`none`", text: "How the sidecar finds out whether the workload is well.", set: func(s *settings, _, v string) error {
			if err := few(v); err != nil {
				return err
			}
			s.health = list(v)
			for n, method := range s.health {
				if err := oneOf(method, []string{"none", "http", "tcp", "prometheus"}); err != nil {
					return err
				}
				if slices.Contains(s.health[:n], method) || method == "none" && len(s.health) > 1 {
					return fmt.Errorf("%q stands twice, or beside another; write each once, and none alone", method)
				}
			}
			return nil
		}},
		text("health-url", "a URL", "required with `http` and `prometheus`", "What is asked, such as `http://127.0.0.1:3000/health`.", func(s *settings) *string { return &s.check.URL }),
		text("health-metrics-url", "a URL", "that of `health-url`", "With `prometheus`: where the counter is.", func(s *settings) *string { return &s.metricsURL }),
		text("health-address", "host:port", "required with `tcp`", "With `tcp`: where a connection must be possible.", func(s *settings) *string { return &s.address }),
		truth("health-expect-etag", "With `http`: the answer must name the bundle that the workload has loaded.", func(s *settings) *bool { return &s.check.ExpectEtag }),
		text("health-interval", "a duration", "`2s`", "Time between two looks.", func(s *settings) *string { return &s.check.Interval }),
		text("health-deadline", "a duration", "`30s`", "How long the workload may take to be well after a change.", func(s *settings) *string { return &s.check.Deadline }),
		count("health-successes", "`1`", "How many good looks in a row prove the workload well.", func(s *settings) *int { return &s.check.Successes }),
		count("health-failures", "`3`", "How many bad looks in a row count.", func(s *settings) *int { return &s.check.Failures }),
		text("health-metric", "a counter's name", "required with `prometheus`", "With `prometheus`: the counter that must not grow after a change.", func(s *settings) *string { return &s.check.Metric }),
		{name: "health-labels", takes: "`NAME=VALUE`, with commas between several", standard: "none", text: "With `prometheus`: which series; `VALUE` may begin with `!=`, `=~` or `!~`.", set: func(s *settings, _, v string) error {
			s.check.Labels = map[string]string{}
			if err := few(v); err != nil {
				return err
			}
			for _, pair := range list(v) {
				name, value, ok := strings.Cut(pair, "=")
				if !ok || name == "" {
					return fmt.Errorf("%q is not NAME=VALUE", pair)
				}
				if err := pattern(strings.TrimLeft(value, "=!~")); err != nil {
					return err
				}
				s.check.Labels[name] = value
			}
			return nil
		}},
		{name: "health-max-increase", takes: "a number", standard: "`0`", text: "With `prometheus`: by how much it may grow.", set: func(s *settings, _, v string) error {
			most, err := strconv.ParseFloat(v, 64)
			if err != nil {
				return errors.New("write a number, such as 5")
			}
			s.check.MaxIncrease = &most
			return nil
		}},
		text("health-window", "a duration", "`1m`", "With `prometheus`: within which time.", func(s *settings) *string { return &s.check.Window }),
	}
}

func otherTable() []annotation {
	return []annotation{
		{name: "proxy", takes: "`PORT:UPSTREAM:KEY` or `PORT:UPSTREAM:KEY:HEADER`, with commas between several", standard: "none", text: "Puts the sidecar's proxy at PORT before the application at 127.0.0.1:UPSTREAM, which holds one value of KEY ([proxy.md](proxy.md)). Point Services and probes at PORT.", set: setProxy},
		count("proxy-max-requests", "`384`", "With `proxy`: how many requests may be under way at each port, WebSockets among them. The default of `memory-limit` grows with more.", func(s *settings) *int { return &s.proxyRequests }),
		{name: "reencrypt", takes: "an environment name", standard: "none", text: "Key of the bundle with the URL of the database to re-encrypt in when the engine asks, such as `DATABASE_URL`.", set: func(s *settings, _, v string) error {
			s.file.Reencrypt.DatabaseURLKey = v
			return key.ValidateEnv(v)
		}},
		count("reencrypt-rows-per-second", "as fast as it goes", "With `reencrypt`: how many rows a second at most.", func(s *settings) *int { return &s.file.Reencrypt.RowsPerSecond }),
		text("reencrypt-max-load", "a duration", "none", "With `reencrypt`: rest while a batch's transactions take longer, or a replica lags more.", func(s *settings) *string { return &s.file.Reencrypt.MaxLoad }),
		{name: "status-port", takes: "a port", standard: "none", text: "Port of the pod with the sidecar's `/metrics`, `/healthz` and `/readyz`.", set: func(s *settings, _, v string) (err error) {
			s.statusPort, err = port(v)
			return err
		}},
		choice("log-level", []string{"debug", "info", "warn", "error"}, "`info`", "How much the sidecar says.", func(s *settings) *string { return &s.logLevel }),
		text("image", "an image", "the injector's", "Image of the sidecar.", func(s *settings) *string { return &s.image }),
		{name: "image-pull-policy", takes: "`Always`, `IfNotPresent` or `Never`", standard: "the injector's", text: "When the kubelet fetches it.", set: func(s *settings, _, v string) (err error) {
			s.pullPolicy, err = pullPolicy(v)
			return err
		}},
		number("run-as-user", "that of the containers", "User of the sidecar: that of the containers which read its files or are signalled, where the pod does not say it.", func(s *settings) **int64 { return &s.user }),
		number("run-as-group", "that of the containers", "Group of the sidecar.", func(s *settings) **int64 { return &s.group }),
		amount("cpu-request", "`10m`", func(s *settings) *corev1.ResourceList { return &s.resources.Requests }, corev1.ResourceCPU),
		amount("cpu-limit", "none", func(s *settings) *corev1.ResourceList { return &s.resources.Limits }, corev1.ResourceCPU),
		amount("memory-request", "`32Mi`", func(s *settings) *corev1.ResourceList { return &s.resources.Requests }, corev1.ResourceMemory),
		amount("memory-limit", "`96Mi`, and `80Mi` for each further port of `proxy`; 150 KiB more for each request that `proxy-max-requests` adds", func(s *settings) *corev1.ResourceList { return &s.resources.Limits }, corev1.ResourceMemory),
		{name: injectedName, takes: "the injector's mark", standard: "—", text: "Written by the injector. A pod that brings it, such as a copy of an injected one, is injected anew."},
	}
}
