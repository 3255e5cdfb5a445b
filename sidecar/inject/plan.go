// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
)

// Names of what is ours in a pod.
const (
	sidecarName   = "hyvve-sidecar"
	installName   = "hyvve-install"
	keysVolume    = "hyvve-keys"
	tokenVolume   = "hyvve-token" //nolint:gosec // the name of a volume
	caVolume      = "hyvve-ca"
	apiVolume     = "hyvve-api"
	programVolume = "hyvve-program"
)

// standardUser is that of the sidecar's image.
const standardUser = 65532

// plan is what is to be done to a pod.
type plan struct {
	settings
	pod       *corev1.Pod
	namespace string

	uid   int64
	gid   *int64
	shows []*corev1.Container // that see the files
	runs  *corev1.Container   // of exec mode
	asks  bool                // the sidecar may ask the API server about the pod
	saw   []string            // names of those that saw the files after an earlier time
}

// check refuses pods that cannot be served, and finds the containers and the user.
func (p *plan) check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	spec := &p.pod.Spec
	if spec.OS != nil && spec.OS.Name == corev1.Windows || spec.NodeSelector[corev1.LabelOSStable] == "windows" {
		fail("the pod is for Windows, and the sidecar for Linux; take the annotations of %s out", Domain)
	}
	if _, mirror := p.pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		fail("the pod is a static one of a node, which nobody can change on its way; run it by a DaemonSet, or take the annotations of %s out", Domain)
	}
	if instance := p.namespace + "." + p.pod.Name; p.pod.Name != "" && key.ValidateInstance(instance) != nil {
		fail("the names of namespace and pod are %d characters long together, and the engine's name of an instance has 127 of them at most; name the pod shorter", len(instance)-1)
	}
	if spec.HostNetwork && (p.statusPort != 0 || len(p.file.Proxy) > 0) {
		fail("the pod has the network of its node (hostNetwork), where status-port and proxy would listen on the node's own addresses; take them, or hostNetwork, out")
	}
	if p.reload.Method == "signal" && spec.HostPID {
		fail("annotation %s/reload: the pod sees all processes of its node (hostPID), and another pod's could be signalled in place of its own; reload by http, use exec, or take hostPID out", Domain)
	}
	if p.reload.Method == "signal" && spec.ShareProcessNamespace != nil && !*spec.ShareProcessNamespace {
		fail("annotation %s/reload: a signal reaches other containers only with shareProcessNamespace, and the pod says it is false; take that out, or reload by http or exec", Domain)
	}
	errs = append(errs, p.clashes()...)
	errs = append(errs, p.find()...)
	if len(errs) == 0 {
		errs = append(errs, p.choosesUserAgain())
	}
	return errors.Join(errs...)
}

// clashes finds what is called as ours are, and is not.
func (p *plan) clashes() (errs []error) {
	for _, c := range p.all() {
		if c.Name == sidecarName || c.Name == installName {
			errs = append(errs, fmt.Errorf("container %s is there already, and not from the injector; name it otherwise", c.Name))
		}
		for _, m := range c.VolumeMounts {
			if at := m.MountPath; at == volumeDir || strings.HasPrefix(at, volumeDir+"/") || at == tokenDir || at == authority || at == programDir {
				errs = append(errs, fmt.Errorf("container %s mounts something at %s, where the keys go; mount it elsewhere", c.Name, at))
			}
		}
	}
	for _, v := range p.pod.Spec.Volumes {
		if oursByName(v.Name) {
			errs = append(errs, fmt.Errorf("volume %s is there already, and not from the injector; name it otherwise", v.Name))
		}
	}
	return errs
}

// all are the pod's own containers, init containers first.
func (p *plan) all() (all []*corev1.Container) {
	for i := range p.pod.Spec.InitContainers {
		all = append(all, &p.pod.Spec.InitContainers[i])
	}
	for i := range p.pod.Spec.Containers {
		all = append(all, &p.pod.Spec.Containers[i])
	}
	return all
}

// find finds the containers that see the files, and the one that is run by the sidecar.
func (p *plan) find() (errs []error) {
	var names []string
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		names = append(names, c.Name)
		everybody := len(p.containers) == 0 && len(p.file.Render) > 0
		if everybody || slices.Contains(p.containers, c.Name) {
			p.shows = append(p.shows, c)
		}
		if c.Name == p.exec {
			p.runs = c
		}
	}
	for _, name := range p.containers {
		if !slices.Contains(names, name) {
			errs = append(errs, fmt.Errorf("annotation %s/containers: the pod has no container %q%s", Domain, name, usage.DidYouMean(name, names)))
		}
	}
	switch {
	case p.exec == "":
	case p.runs == nil:
		errs = append(errs, fmt.Errorf("annotation %s/exec: the pod has no container %q%s", Domain, p.exec, usage.DidYouMean(p.exec, names)))
	case len(p.runs.Command) == 0:
		errs = append(errs, fmt.Errorf("annotation %s/exec: container %s has no command, and that of its image cannot be seen from here; write it into the pod's specification, as command and args", Domain, p.exec))
	default:
		for _, e := range p.runs.Env {
			if strings.HasPrefix(e.Name, "HYVVE_SIDECAR_") {
				errs = append(errs, fmt.Errorf("container %s sets %s, which is the sidecar's; take it out", p.exec, e.Name))
			}
		}
		if !slices.Contains(p.shows, p.runs) {
			p.shows = append(p.shows, p.runs)
		}
	}
	if p.initToo {
		for i := range p.pod.Spec.InitContainers {
			p.shows = append(p.shows, &p.pod.Spec.InitContainers[i])
		}
	}
	return errs
}

// reader is a container that sees the files, and who it is.
type reader struct {
	name        string
	user, group *int64 // nil: its image says
	everything  bool   // it reads files of every owner
}

// readers are those who see the files. Where a container does not say who it is, annotations do.
func (p *plan) readers() (all []reader) {
	for _, c := range p.shows {
		all = append(all, p.reader(c))
	}
	return all
}

func (p *plan) reader(c *corev1.Container) reader {
	r := reader{name: c.Name}
	if s := p.pod.Spec.SecurityContext; s != nil {
		r.user, r.group = s.RunAsUser, s.RunAsGroup
	}
	if s := c.SecurityContext; s != nil {
		r.user, r.group = cmp.Or(s.RunAsUser, r.user), cmp.Or(s.RunAsGroup, r.group)
	}
	r.user, r.group = cmp.Or(r.user, p.user), cmp.Or(r.group, p.group)
	r.everything = r.user != nil && *r.user == 0 && overrides(c.SecurityContext)
	return r
}

// overrides reports whether a superuser has the capability that lets it read everything (CAP_DAC_OVERRIDE of capabilities(7)), as it
// has if nobody takes it away.
func overrides(s *corev1.SecurityContext) bool {
	has := func(list []corev1.Capability) bool {
		return slices.ContainsFunc(list, func(c corev1.Capability) bool {
			return c == "ALL" || strings.TrimPrefix(string(c), "CAP_") == "DAC_OVERRIDE"
		})
	}
	switch {
	case s == nil || s.Privileged != nil && *s.Privileged:
		return true
	case s.Capabilities == nil:
		return true
	}
	return has(s.Capabilities.Add) || !has(s.Capabilities.Drop)
}

// choosesUser finds a user as whom the sidecar writes files that containers can read and, where it must, signals them.
func (p *plan) choosesUser() error {
	all := p.readers()
	p.uid, p.gid = standardUser, p.group
	if err := p.picksUser(all); err != nil {
		return err
	}
	return p.letsRead(all)
}

// choosesUserAgain does not let a container that came after the injection, such as the proxy of a mesh, be a reason to refuse the
// pod: it does without the files.
func (p *plan) choosesUserAgain() error {
	err := p.choosesUser()
	if err == nil || len(p.saw) == 0 || len(p.containers) > 0 {
		return err
	}
	p.shows = slices.DeleteFunc(p.shows, func(c *corev1.Container) bool { return c != p.runs && !slices.Contains(p.saw, c.Name) })
	return p.choosesUser()
}

// runAs sets the user and the group of the sidecar to those of a container.
func (p *plan) runAs(r reader) {
	p.uid, p.gid = *r.user, cmp.Or(p.group, r.group)
}

func (p *plan) picksUser(all []reader) error {
	switch {
	case p.runs != nil: // of all containers it matters who this one is
		r := p.reader(p.runs)
		if r.user == nil {
			return fmt.Errorf("container %s does not say as which user it runs, and the sidecar's files in it must be that user's; write securityContext.runAsUser, or %s/run-as-user for what its image has", r.name, Domain)
		}
		p.runAs(r)
	case p.reload.Method == "signal":
		return p.signals(all)
	case p.user != nil:
		p.uid = *p.user
	default:
		if at := slices.IndexFunc(all, func(r reader) bool { return r.user != nil && !r.everything }); at >= 0 {
			p.runAs(all[at])
		}
	}
	return nil
}

// signals has the sidecar be the user that it has to signal: without privileges it can signal nobody else.
func (p *plan) signals(all []reader) error {
	unknown := slices.IndexFunc(all, func(r reader) bool { return r.user == nil })
	if unknown >= 0 {
		return fmt.Errorf("container %s does not say as which user it runs, and only the same user may signal it; write securityContext.runAsUser, or %s/run-as-user for what its image has", all[unknown].name, Domain)
	}
	one := slices.IndexFunc(all, func(r reader) bool { return p.user == nil || *r.user == *p.user })
	switch {
	case one < 0:
		return fmt.Errorf("no container runs as user %d of %s/run-as-user, and only the same user may signal it; write that of the container to signal, or take it out", *p.user, Domain)
	case p.user == nil && slices.ContainsFunc(all, func(r reader) bool { return *r.user != *all[0].user }):
		return fmt.Errorf("the containers run as several users, and the sidecar can signal one of them; name the one to signal in %s/containers, or its user in %s/run-as-user", Domain, Domain)
	}
	p.runAs(all[one])
	return nil
}

// letsRead opens files to a group where not all who see them are the sidecar's user: to the pod's fsGroup, whose the volume is and
// in which all containers are, or to the one that all of them run as.
func (p *plan) letsRead(all []reader) error {
	strange := slices.DeleteFunc(slices.Clone(all), func(r reader) bool {
		return r.everything || r.user != nil && *r.user == p.uid
	})
	if len(strange) == 0 || len(p.file.Render) == 0 {
		return nil
	}
	switch group := common(all); {
	case p.pod.Spec.SecurityContext != nil && p.pod.Spec.SecurityContext.FSGroup != nil:
		p.gid = p.group
	case group != nil && (p.group == nil || *p.group == *group):
		p.gid = group
	default:
		return p.unreadable(strange)
	}
	if mode, err := strconv.ParseUint(p.render.Mode, 8, 32); err == nil && mode&0o040 == 0 {
		return fmt.Errorf("annotation %s/mode: container %s reads the files as a group, which mode %s forbids; write 0640, or leave it out", Domain, strange[0].name, p.render.Mode)
	}
	for i := range p.file.Render {
		p.file.Render[i].Mode = cmp.Or(p.file.Render[i].Mode, "0640")
	}
	return nil
}

// common is the group that all run as who do not read everything anyway; nil: there is none.
func common(all []reader) (group *int64) {
	for _, r := range all {
		switch {
		case r.everything:
		case r.group == nil || group != nil && *group != *r.group:
			return nil
		default:
			group = r.group
		}
	}
	return group
}

// unreadable says why those who see the files could not read them.
func (p *plan) unreadable(strange []reader) error {
	for _, r := range strange {
		if r.user == nil {
			return fmt.Errorf("container %s does not say as which user it runs, so that the files of keys would be readable by nobody or by everybody; write securityContext.runAsUser, or %s/run-as-user for what its image has, or a pod's fsGroup", r.name, Domain)
		}
	}
	if p.user != nil {
		return fmt.Errorf("container %s runs as user %d, and the sidecar as %d by %s/run-as-user, whose files it could not read; take that out, write a fsGroup into the pod's securityContext, or name those who need them in %s/containers", strange[0].name, *strange[0].user, p.uid, Domain, Domain)
	}
	return fmt.Errorf("the containers run as several users, of whom one could read the files; write a fsGroup into the pod's securityContext, or name those who need them in %s/containers", Domain)
}
