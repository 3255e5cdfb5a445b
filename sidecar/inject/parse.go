// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// Places in the containers. The volume in memory is writable by everybody, as every emptyDir is; what is secret is below it, in a
// directory that the sidecar makes.
const (
	volumeDir   = "/run/hyvve"
	keysDir     = volumeDir + "/keys"
	socketPath  = keysDir + "/sidecar.sock"
	programName = "hyvve-sidecar"
	programDir  = "/run/hyvve-program" // where exec mode runs it from: on a disk, since it is no secret, and large
	programPath = programDir + "/" + programName
	tokenDir    = "/var/run/secrets/hyvve" //nolint:gosec // a directory
	authority   = "/etc/hyvve-ca"
)

// parse reads the annotations of a pod. All that is wrong is said at once.
func (o Options) parse(all map[string]string) (settings, error) {
	if !slices.ContainsFunc(slices.Collect(maps.Keys(all)), ours) {
		return settings{}, ErrNotWanted
	}
	s := settings{
		file: config.File{Reencrypt: &config.ReencryptBlock{}, Vault: &config.VaultBlock{Address: o.VaultAddress, Namespace: o.VaultNamespace, Mount: cmp.Or(o.VaultMount, "hyvve"), Auth: config.AuthBlock{
			Method: "kubernetes", Mount: cmp.Or(o.AuthMount, "kubernetes"), TokenPath: tokenDir + "/token",
		}}},
		reload:     config.ReloadBlock{Method: "none"},
		caKey:      "ca.crt",
		audience:   cmp.Or(o.Audience, "vault"),
		tokenLife:  3600,
		image:      o.Image,
		pullPolicy: corev1.PullPolicy(o.ImagePullPolicy),
		volumeSize: resource.MustParse("16Mi"),
		resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("96Mi")},
		},
		caConfigMap: o.CAConfigMap,
	}
	if err := fits(all); err != nil {
		return s, err
	}
	if err := s.read(all, o.Locked); err != nil {
		return s, err
	}
	return s, s.complete(all)
}

func ours(name string) bool { return strings.HasPrefix(name, Domain+"/") }

// find returns the annotation that has a name; one without a name if there is none.
func find(name string) annotation {
	for _, a := range table() {
		if a.name == name || strings.HasSuffix(a.name, ".") && strings.HasPrefix(name, a.name) {
			return a
		}
	}
	return annotation{}
}

// read takes the values of all annotations, of which pods may not set those that are locked.
func (s *settings) read(all map[string]string, locked []string) error {
	var errs []error
	for _, full := range slices.Sorted(maps.Keys(all)) {
		if !ours(full) {
			continue
		}
		if len(errs) == maxFaults {
			errs = append(errs, errors.New("and perhaps more: the rest was not looked at"))
			break
		}
		name := strings.TrimPrefix(full, Domain+"/")
		a := find(name)
		if a.name == "" {
			var names []string
			for _, a := range table() {
				names = append(names, Domain+"/"+a.name)
			}
			errs = append(errs, fmt.Errorf("annotation %s is not known%s", full, usage.DidYouMean(full, names)))
			continue
		}
		if slices.Contains(locked, a.name) {
			errs = append(errs, fmt.Errorf("annotation %s is locked: it is the same for all pods of the cluster; take it out, or have it taken out of --locked of the injector (locked of its chart)", full))
			continue
		}
		if name == injectName {
			if err := usage.OneOf(all[full], []string{"true", "false"}); err != nil {
				errs = append(errs, fmt.Errorf("annotation %s: %w", full, err))
			}
			continue
		}
		if a.set == nil {
			continue
		}
		if all[full] == "" {
			errs = append(errs, fmt.Errorf("annotation %s is empty; write a value (%s), or leave it out", full, strings.ReplaceAll(a.takes, "`", "")))
			continue
		}
		err := long(name, all[full])
		if err == nil {
			err = a.set(s, strings.TrimPrefix(name, templateName), all[full])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("annotation %s: %w", full, err))
		}
	}
	wanted, said := all[Domain+"/"+injectName]
	switch {
	case !said:
		errs = append(errs, fmt.Errorf("annotation %[1]s/%[2]s is missing, and others of %[1]s are there; write %[1]s/%[2]s: \"true\", or take them out", Domain, injectName))
	case wanted == "false":
		return ErrNotWanted
	}
	return errors.Join(errs...)
}

// complete fills in what follows from several annotations together, and lets the sidecar's own checks look at the whole.
func (s *settings) complete(all map[string]string) error {
	var errs []error
	fail := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("annotation %s/%s: %w", Domain, name, fmt.Errorf(format, args...)))
	}
	if s.file.Workload == "" {
		fail("workload", "it is missing; name the workload that the pod is an instance of")
	}
	if s.exec == "" && s.formats != nil && len(s.formats)+len(s.templates) == 0 {
		fail("render", "without files the sidecar would do nothing; \"none\" is for exec mode")
	}
	auth := &s.file.Vault.Auth
	auth.Role = cmp.Or(auth.Role, s.file.Workload)
	for _, name := range slices.Sorted(maps.Keys(all)) { // what would have no effect is a mistake
		part := strings.TrimPrefix(name, Domain+"/")
		a := find(part)
		switch {
		case !ours(name):
		case s.exec == "" && strings.HasPrefix(part, "exec-"):
			fail(part, "it is of exec mode; name the container in %s/exec, or take it out", Domain)
		case s.exec != "" && (part == "reload" || a.block == "reload"):
			fail(part, "under exec the workload is restarted or signalled by %s/exec-on-change; take it out", Domain)
		case len(s.health) == 0 && strings.HasPrefix(part, "health-"):
			fail(part, "it is without effect; write how to look in %s/health, or take it out", Domain)
		case strings.HasPrefix(part, "health-") && a.of != nil && !slices.ContainsFunc(s.health, func(method string) bool { return slices.Contains(a.of, method) }):
			fail(part, "it is of %s, and %s/health is %s; take it out, or add that", strings.Join(a.of, " and "), Domain, strings.Join(s.health, ","))
		case s.exec != "" && part == gateName:
			fail(part, "under exec there is no container of the sidecar that others could wait for, since it starts the workload with its keys; take it out")
		case part == "ca-key" && s.caConfigMap+s.caSecret == "":
			fail(part, "there is no authority of Vault's certificate to take it from; name one in %[1]s/ca-configmap or %[1]s/ca-secret, or take it out", Domain)
		case strings.HasPrefix(part, "proxy-") && len(s.file.Proxy) == 0:
			fail(part, "it is without effect; name the ports in %s/proxy, or take it out", Domain)
		case strings.HasPrefix(part, "reencrypt-") && s.file.Reencrypt.DatabaseURLKey == "":
			fail(part, "it is without effect; name the database's key in %s/reencrypt, or take it out", Domain)
		}
	}
	if s.file.Reencrypt.DatabaseURLKey == "" {
		s.file.Reencrypt = nil
	}
	for n := range s.file.Proxy {
		s.file.Proxy[n].MaxRequests = s.proxy.MaxRequests
	}
	if _, own := all[Domain+"/ca-secret"]; own {
		if _, both := all[Domain+"/ca-configmap"]; both {
			fail("ca-secret", "ca-configmap is there, too; take one out")
		}
		s.caConfigMap = "" // the injector's
	}
	if _, own := all[Domain+"/memory-limit"]; !own {
		s.resources.Limits[corev1.ResourceMemory] = s.memoryLimit()
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		request := s.resources.Requests[name]
		if limit, ok := s.resources.Limits[name]; ok && request.Cmp(limit) > 0 {
			fail(string(name)+"-request", "%s is more than %s-limit, which is %s; write less, or a higher limit", request.String(), name, limit.String())
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return s.configure()
}

// requestKiB is what each request beyond the default may take (docs/proxy.md).
const requestKiB = 150

// memoryLimit is the default: a sidecar takes some 14 MB, and what a proxy holds at most takes 80 Mi (limits of package proxy; its
// TestAdversaryHalfSentRequests measures it) for the requests that are let in by default.
func (s *settings) memoryLimit() resource.Quantity {
	listens := map[string]bool{}
	for _, p := range s.file.Proxy {
		listens[p.Listen] = true
	}
	more := max(0, min(s.proxy.MaxRequests, config.MaxProxyRequests)-config.ProxyRequests) * requestKiB / 1024
	return resource.MustParse(fmt.Sprintf("%dMi", 16+80*max(1, len(listens))+more*len(listens)))
}

// configure makes the sidecar's configuration, and checks it as the sidecar will.
func (s *settings) configure() error {
	f := &s.file
	if s.caConfigMap+s.caSecret != "" {
		f.Vault.CACert = path.Join(authority, s.caKey)
	}
	f.Status = &config.StatusBlock{Socket: socketPath, EndUnlessAwaited: s.gate == gatePostStart}
	if s.statusPort != 0 {
		f.Status.Listen = fmt.Sprintf(":%d", s.statusPort)
	}
	if s.formats == nil && s.exec == "" && len(s.templates) == 0 {
		s.formats = []config.RenderBlock{{Format: string(render.Dotenv), Path: standardNames[render.Dotenv]}}
	}
	for _, r := range slices.Concat(s.formats, s.templates) {
		next := s.render
		next.Format, next.Path, next.Template, next.MakeDirectory = r.Format, path.Join(keysDir, r.Path), r.Template, true
		if r.Format == string(render.Template) || r.Format == string(render.Bundle) {
			next.Accepts, next.Previous = false, false // they have all values anyway
		}
		f.Render = append(f.Render, next)
	}
	if s.exec == "" {
		f.Reload = &s.reload
	} else {
		f.Exec = &s.execBlock
	}
	for n, method := range s.health {
		h := s.check
		h.Method = method
		config.Clear(&h, func(o config.Option) bool { // those of all methods stand in one block
			return o.Of == nil && n > 0 || o.Of != nil && !slices.Contains(o.Of, method)
		})
		if method == "prometheus" {
			h.URL = cmp.Or(s.metricsURL, h.URL)
		}
		f.Health = append(f.Health, h)
	}
	return s.verify()
}

// verify reads the configuration as the sidecar will.
func (s *settings) verify() error {
	text := configuration(s.file)
	if _, ok := sound.get(text); ok {
		return nil
	}
	f, err := config.Parse([]byte(text), "pod")
	if err != nil {
		return fmt.Errorf("the annotations make no configuration that the sidecar can read: %w", err)
	}
	f.Instance = "pod"
	if _, err := f.Check(); err != nil {
		return fmt.Errorf("the annotations of %s: %w", Domain, err)
	}
	sound.set(text, "")
	return nil
}
