// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// settings are what annotations and options say together.
type settings struct {
	file       config.File          // as the sidecar is to be configured; what follows is put in later
	render     config.RenderBlock   // what all files have in common
	formats    []config.RenderBlock // paths are names below the directory
	templates  []config.RenderBlock
	reload     config.ReloadBlock
	health     []string           // methods
	check      config.HealthBlock // options of all methods
	metricsURL string
	exec       string // container
	execBlock  config.ExecBlock
	proxy      config.ProxyBlock // what all ports have in common
	containers []string
	initToo    bool
	gate       string

	caConfigMap, caSecret, caKey string

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
	takes    string // its type, in words
	standard string // its default, in words
	text     string
	set      func(s *settings, name, value string) error
	block    string   // whose option it sets; empty: none, or one outside of blocks
	of       []string // the methods of the block that have it; nil: all
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

// table returns all annotations, in the order of the documentation: those that set an option of the sidecar's configuration, which
// are read from its own table, and those of pods.
var table = sync.OnceValue(func() []annotation {
	return slices.Concat(
		[]annotation{{name: injectName, takes: "`true` or `false`", standard: "`false`", text: "Injects the sidecar. Without it, any other annotation is refused, so that a slip does not mean a pod without keys."}},
		fromOptions(""), fromOptions("vault"), fromOptions("vault: auth"), vaultTable(),
		fileTable(), fromOptions("render"), containerTable(),
		[]annotation{choice("reload", inPod["reload"], "`none`: the workload watches its files itself", "How the workload is notified of a change. A command is not possible: the image of the sidecar contains no other program.", func(s *settings) *string { return &s.reload.Method })}, fromOptions("reload"),
		[]annotation{text("exec", "name", "none", "Container whose command runs under `hyvve-sidecar exec`: its keys are in its environment, and it restarts when they change. There is no sidecar container then.", func(s *settings) *string { return &s.exec })}, fromOptions("exec"),
		healthTable(), fromOptions("health"),
		[]annotation{{name: "proxy", takes: "`PORT:UPSTREAM:KEY` or `PORT:UPSTREAM:KEY:HEADER`, separated by commas", standard: "none", text: "Puts the sidecar's proxy at PORT before the application at 127.0.0.1:UPSTREAM, which holds one value of KEY ([proxy.md](proxy.md)). Point Services and probes at PORT.", set: setProxy}}, fromOptions("proxy"), fromOptions("reencrypt"), sidecarTable(),
	)
})

// inPod are the methods that pods have of reload and health blocks.
var inPod = map[string][]string{"reload": {"none", "signal", "http"}, "health": {"none", "http", "tcp", "prometheus"}}

// fromOptions returns the annotations that set options of a block. One that sets options of several blocks stands with the first.
func fromOptions(block string) (all []annotation) {
	options := map[string][]config.Option{} // by annotation
	for _, b := range config.Blocks() {
		for _, o := range b.Options {
			options[o.Annotation] = append(options[o.Annotation], o)
		}
	}
	for _, b := range config.Blocks() {
		for _, o := range b.Options {
			sets := options[o.Annotation]
			if b.Path != block || o.Annotation == "" || sets[0].Block != block {
				continue
			}
			a := annotation{name: o.Annotation, takes: takes(o), standard: o.Without(), text: o.Doc, block: block}
			if methods := inPod[block]; methods != nil && o.Of != nil {
				a.of = slices.DeleteFunc(slices.Clone(o.Of), func(method string) bool { return !slices.Contains(methods, method) })
			}
			a.set = func(s *settings, _, v string) error {
				for _, o := range sets {
					if err := s.set(o, v); err != nil {
						return err
					}
				}
				return nil
			}
			all = append(all, a)
		}
	}
	return all
}

// takes is the type of an option, as an annotation has it.
func takes(o config.Option) string {
	switch kind := o.Kind(); {
	case strings.HasPrefix(kind, "map of "):
		return "`NAME=VALUE`, separated by commas"
	case o.IsList():
		return strings.TrimPrefix(kind, "list of ") + ", separated by commas"
	default:
		return kind
	}
}

func vaultTable() []annotation {
	return []annotation{
		text("ca-configmap", "name", "the injector's", "ConfigMap of the pod's namespace with the authority of Vault's certificate.", func(s *settings) *string { return &s.caConfigMap }),
		text("ca-secret", "name", "none", "Secret of the pod's namespace with it, in place of a ConfigMap.", func(s *settings) *string { return &s.caSecret }),
		text("ca-key", "key", "`ca.crt`", "Key of that ConfigMap or Secret.", func(s *settings) *string { return &s.caKey }),
		text("audience", "text", "the injector's, `vault`", "Audience of the token that the sidecar logs in with.", func(s *settings) *string { return &s.audience }),
		{name: "token-lifetime", takes: "seconds, 600 or more", standard: "`3600`", text: "Lifetime of that token, which the kubelet replaces in time.", set: func(s *settings, _, v string) (err error) {
			if s.tokenLife, err = strconv.ParseInt(v, 10, 64); err != nil || s.tokenLife < 600 || s.tokenLife > 1<<32 {
				return errors.New("write a number of seconds, 600 or more")
			}
			return nil
		}},
	}
}

func fileTable() []annotation {
	return []annotation{
		{name: "render", takes: "`FORMAT` or `FORMAT:NAME`, separated by commas", standard: "`dotenv`; nothing beside `exec` or a template", text: "Files to render below `/run/hyvve/keys`. Formats and their default names: `dotenv` (`.env`), `docker` (`docker.env`), `json` (`secrets.json`), `bundle` (`bundle.json`), `files` (a directory `values`). `none` renders nothing.", set: setRender},
		{name: templateName, takes: "text of a template", standard: "none", text: "`hyvve.app/template.NAME` renders a file NAME from a template ([templates.md](templates.md)).", set: func(s *settings, name, v string) error {
			if err := fileName(name); err != nil {
				return err
			}
			s.templates = append(s.templates, config.RenderBlock{Format: string(render.Template), Path: name, Template: v})
			return nil
		}},
	}
}

func containerTable() []annotation {
	return []annotation{
		{name: "containers", takes: "names, separated by commas", standard: "all; with `exec` and no files, that one", text: "Containers that see the files.", set: func(s *settings, _, v string) error {
			s.containers = list(v)
			return nil
		}},
		truth("init-containers", "The pod's own init containers see the files, too: the sidecar starts before them.", func(s *settings) *bool { return &s.initToo }),
		choice(gateName, []string{gateProbe, gatePostStart}, "`startup-probe`", "What holds the containers back until their keys are there: the startup probe or the postStart hook of the sidecar. With the hook a pod starts a second earlier, and is harder to handle while Vault is away ([kubernetes.md](kubernetes.md#what-it-costs)).", func(s *settings) *string { return &s.gate }),
		quantity("volume-size", "`16Mi`", "Size of the volume in memory that holds the files.", func(s *settings) *resource.Quantity { return &s.volumeSize }),
	}
}

func healthTable() []annotation {
	methods := inPod["health"]
	return []annotation{
		{name: "health", takes: "`" + strings.Join(methods, "`, `") + "`, separated by commas", standard: "`none`", text: "How the sidecar checks whether the workload is healthy.", set: func(s *settings, _, v string) error {
			if err := checkLength(v); err != nil {
				return err
			}
			s.health = list(v)
			for n, method := range s.health {
				if err := usage.OneOf(method, methods); err != nil {
					return err
				}
				if slices.Contains(s.health[:n], method) || method == "none" && len(s.health) > 1 {
					return fmt.Errorf("%q stands twice, or beside another; write each once, and none alone", method)
				}
			}
			return nil
		}},
		{name: "health-metrics-url", takes: "URL", standard: "that of `health-url`", text: "URL of the metrics, where `health-url` is that of `http`.", of: []string{"prometheus"}, set: func(s *settings, _, v string) error {
			s.metricsURL = v
			return nil
		}},
	}
}

func sidecarTable() []annotation {
	return []annotation{
		{name: "status-port", takes: "port", standard: "none", text: "Port of the pod with the sidecar's `/metrics`, `/healthz` and `/readyz`.", set: func(s *settings, _, v string) (err error) {
			s.statusPort, err = port(v)
			return err
		}},
		choice("log-level", []string{"debug", "info", "warn", "error"}, "`info`", "Lowest level that the sidecar logs.", func(s *settings) *string { return &s.logLevel }),
		text("image", "image", "the injector's", "Image of the sidecar.", func(s *settings) *string { return &s.image }),
		{name: "image-pull-policy", takes: "`Always`, `IfNotPresent` or `Never`", standard: "the injector's", text: "When the kubelet fetches it.", set: func(s *settings, _, v string) (err error) {
			s.pullPolicy, err = pullPolicy(v)
			return err
		}},
		number("run-as-user", "that of the containers", "User of the sidecar, where the pod does not say which user its containers run as.", func(s *settings) **int64 { return &s.user }),
		number("run-as-group", "that of the containers", "Group of the sidecar.", func(s *settings) **int64 { return &s.group }),
		amount("cpu-request", "`10m`", func(s *settings) *corev1.ResourceList { return &s.resources.Requests }, corev1.ResourceCPU),
		amount("cpu-limit", "none", func(s *settings) *corev1.ResourceList { return &s.resources.Limits }, corev1.ResourceCPU),
		amount("memory-request", "`32Mi`", func(s *settings) *corev1.ResourceList { return &s.resources.Requests }, corev1.ResourceMemory),
		amount("memory-limit", "`96Mi`, and `80Mi` for each further port of `proxy`; 150 KiB more for each request that `proxy-max-requests` adds", func(s *settings) *corev1.ResourceList { return &s.resources.Limits }, corev1.ResourceMemory),
		{name: injectedName, takes: "the injector's mark", standard: "—", text: "Written by the injector. A pod that has it already, such as a copy of an injected one, is injected again."},
	}
}

// at returns the block whose options annotations of it set.
func (s *settings) at(block string) any {
	switch block {
	case "render":
		return &s.render
	case "reload":
		return &s.reload
	case "exec":
		return &s.execBlock
	case "health":
		return &s.check
	case "proxy":
		return &s.proxy
	}
	return s.file.At(block)
}

// set sets an option of the configuration.
func (s *settings) set(o config.Option, value string) error {
	if o.IsList() {
		value = strings.Join(list(value), ",")
	}
	switch o.Type {
	case "matchers":
		if err := checkLength(value); err != nil {
			return err
		}
		for matcher := range strings.SplitSeq(value, ",") {
			_, text, _ := strings.Cut(matcher, "=")
			if err := pattern(strings.TrimLeft(text, "=!~")); err != nil {
				return err
			}
		}
	case "regular expression":
		if err := pattern(value); err != nil {
			return err
		}
	}
	return o.Set(s.at(o.Block), value)
}
