// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

// Names of what is ours in a pod.
const (
	sidecarName = "hyvve-sidecar"
	installName = "hyvve-install"
	keysVolume  = "hyvve-keys"
	tokenVolume = "hyvve-token"
	caVolume    = "hyvve-ca"
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
	if p.reload.Method == "signal" && p.exec == "" && !spec.HostPID && spec.ShareProcessNamespace != nil && !*spec.ShareProcessNamespace {
		fail("annotation %s/reload: a signal reaches other containers only with shareProcessNamespace, and the pod says it is false; take that out, or reload by http or exec", Domain)
	}
	errs = append(errs, p.clashes()...)
	errs = append(errs, p.find()...)
	if len(errs) == 0 {
		errs = append(errs, p.choosesUser())
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
			if at := m.MountPath; at == volumeDir || strings.HasPrefix(at, volumeDir+"/") || at == tokenDir || at == authority {
				errs = append(errs, fmt.Errorf("container %s mounts something at %s, where the keys go; mount it elsewhere", c.Name, at))
			}
		}
	}
	for _, v := range p.pod.Spec.Volumes {
		if v.Name == keysVolume || v.Name == tokenVolume || v.Name == caVolume {
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
		if len(p.containers) == 0 || slices.Contains(p.containers, c.Name) {
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

// userOf gives the user and group that a container says it runs as; nil: its image says.
func (p *plan) userOf(c *corev1.Container) (user, group *int64) {
	if s := p.pod.Spec.SecurityContext; s != nil {
		user, group = s.RunAsUser, s.RunAsGroup
	}
	if s := c.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			user = s.RunAsUser
		}
		if s.RunAsGroup != nil {
			group = s.RunAsGroup
		}
	}
	return user, group
}

// choosesUser finds a user as whom the sidecar writes files that containers can read and, where it must, signals them: theirs.
// Where they differ, or do not say who they are, files can still be read by the pod's fsGroup. The superuser reads everything.
func (p *plan) choosesUser() error {
	p.gid = p.group
	if p.user != nil {
		p.uid = *p.user
		return nil
	}
	first, single := (*int64)(nil), true // among those who are not the superuser
	unknown, root := "", ""
	for _, c := range p.shows {
		user, group := p.userOf(c)
		switch {
		case user == nil:
			unknown = c.Name
		case *user == 0:
			root = c.Name
		case first == nil:
			first = user
			if p.gid == nil {
				p.gid = group
			}
		case *first != *user:
			single = false
		}
	}
	signals := p.reload.Method == "signal" && p.exec == ""
	switch {
	case p.exec != "" || signals:
		return p.mustBe(first, single && root == "", unknown, root)
	case unknown == "" && single && first != nil:
		p.uid = *first
		return nil
	case unknown == "" && first == nil: // the superuser alone
		p.uid = standardUser
		return nil
	case p.pod.Spec.SecurityContext != nil && p.pod.Spec.SecurityContext.FSGroup != nil:
		p.uid, p.gid = standardUser, p.group
		if first != nil {
			p.uid = *first
		}
		p.readByGroup()
		return nil
	case unknown != "":
		return fmt.Errorf("container %s does not say as which user it runs, so that the files of keys would be readable by nobody or by everybody; write securityContext.runAsUser, or %s/run-as-user for what its image has, or a pod's fsGroup", unknown, Domain)
	}
	return fmt.Errorf("the containers run as several users, of whom one could read the files; write a fsGroup into the pod's securityContext, or name those who need them in %s/containers", Domain)
}

// mustBe is for a sidecar that has to be the same user as a container, to signal it or to run it.
func (p *plan) mustBe(first *int64, single bool, unknown, root string) error {
	if p.runs != nil { // of all containers it matters who this one is
		user, group := p.userOf(p.runs)
		if user == nil {
			return fmt.Errorf("container %s does not say as which user it runs, and the sidecar's files in it must be that user's; write securityContext.runAsUser, or %s/run-as-user for what its image has", p.runs.Name, Domain)
		}
		if p.uid = *user; p.gid == nil {
			p.gid = group
		}
		return nil
	}
	switch {
	case unknown != "":
		return fmt.Errorf("container %s does not say as which user it runs, and only the same user may signal it; write securityContext.runAsUser, or %s/run-as-user for what its image has", unknown, Domain)
	case first != nil && single:
		p.uid = *first
	case first == nil && root != "":
		p.uid = 0
	default:
		return fmt.Errorf("the containers run as several users, and the sidecar can signal one of them; name the one to signal in %s/containers, or its user in %s/run-as-user", Domain, Domain)
	}
	return nil
}

// readByGroup opens files to their group: in a volume of a pod with fsGroup that is the pod's, which all containers are in.
func (p *plan) readByGroup() {
	for i := range p.file.Render {
		if p.file.Render[i].Mode == "" {
			p.file.Render[i].Mode = "0640"
		}
	}
}
