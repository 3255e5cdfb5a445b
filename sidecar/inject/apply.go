// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// injectedBy is the mark's value: which way of injecting a pod has.
const injectedBy = "v1"

// imageProgram is where the sidecar is in its image.
const imageProgram = "/" + programName

// execCommand begins the command of a container whose workload the sidecar runs.
var execCommand = []string{programPath, "exec", "--"}

// accountDir is where programs in a pod look for what they need to speak with the API server.
const accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

const (
	// readyWait is how long one look of the startup probe waits for readiness. It is given once the look has seen it, so that the
	// next container starts at once and not at the next period.
	readyWait = 20 * time.Second
	// hookWait is how long the postStart hook waits. The kubelet does not look after the pod meanwhile, also if it is deleted; then it
	// starts the sidecar again, with a backoff.
	hookWait = 30 * time.Second
)

// apply changes the pod. The pod was checked.
func (p *plan) apply() error {
	spec := &p.pod.Spec
	text := configuration(p.file)
	p.volumes()
	for _, c := range p.shows {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: keysVolume, MountPath: volumeDir, ReadOnly: c != p.runs})
	}
	var ours corev1.Container
	if p.runs != nil {
		ours = p.installer()
		p.runs.Command = slices.Concat(execCommand, p.runs.Command, p.runs.Args)
		p.runs.Args = nil
		p.runs.Env = append(p.runs.Env, p.environment(text)...)
		p.runs.VolumeMounts = append(p.runs.VolumeMounts, p.credentials()...)
		p.runs.VolumeMounts = append(p.runs.VolumeMounts, corev1.VolumeMount{Name: programVolume, MountPath: programDir, ReadOnly: true})
	} else {
		ours = p.sidecar(text)
		if p.reload.Method == "signal" {
			share := true
			spec.ShareProcessNamespace = &share
		}
	}
	// Last of the init containers it starts when theirs are done; where they see the keys, first.
	at := len(spec.InitContainers)
	if p.initToo {
		at = 0
	}
	spec.InitContainers = slices.Insert(spec.InitContainers, at, ours)
	if p.pod.Annotations == nil {
		return errors.New("a pod without annotations") // who was asked by none
	}
	p.pod.Annotations[Domain+"/"+injectedName] = injectedBy
	return nil
}

func (p *plan) volumes() {
	life, size := p.tokenLife, p.volumeSize
	volumes := []corev1.Volume{
		{Name: keysVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size}}},
		{Name: tokenVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: p.audience, ExpirationSeconds: &life, Path: "token"}},
		}}}},
	}
	switch items := []corev1.KeyToPath{{Key: p.caKey, Path: p.caKey}}; {
	case p.caSecret != "": // nothing but the authority: there may be a private key beside it
		volumes = append(volumes, corev1.Volume{Name: caVolume, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: p.caSecret, Items: items}}})
	case p.caConfigMap != "":
		volumes = append(volumes, corev1.Volume{Name: caVolume, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: p.caConfigMap}, Items: items,
		}}})
	}
	if p.asks {
		volumes = append(volumes, apiToken())
	}
	if p.runs != nil {
		volumes = append(volumes, corev1.Volume{Name: programVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	}
	p.pod.Spec.Volumes = append(p.pod.Spec.Volumes, volumes...)
}

// credentials are mounted where the sidecar runs, and nowhere else.
func (p *plan) credentials() []corev1.VolumeMount {
	mounts := []corev1.VolumeMount{{Name: tokenVolume, MountPath: tokenDir, ReadOnly: true}}
	if p.caConfigMap+p.caSecret != "" {
		mounts = append(mounts, corev1.VolumeMount{Name: caVolume, MountPath: authority, ReadOnly: true})
	}
	return mounts
}

// environment is the sidecar's. Namespace and pod together name an instance: a StatefulSet's pods are called alike in every
// namespace, and with hostNetwork the host's name is the node's.
func (p *plan) environment(text string) []corev1.EnvVar {
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
	}
	all := []corev1.EnvVar{
		field("HYVVE_POD", "metadata.name"), field("HYVVE_NAMESPACE", "metadata.namespace"),
		{Name: "HYVVE_SIDECAR_INSTANCE", Value: "$(HYVVE_NAMESPACE).$(HYVVE_POD)"},
		{Name: "HYVVE_SIDECAR_CONFIG_TEXT", Value: escaped(text)},
	}
	if p.logLevel != "" {
		all = append(all, corev1.EnvVar{Name: "HYVVE_SIDECAR_LOG_LEVEL", Value: p.logLevel})
	}
	return all
}

// escaped keeps Kubernetes from replacing what looks like a reference to another variable.
func escaped(text string) string {
	var out []byte
	for i := range len(text) {
		if text[i] == '$' {
			out = append(out, '$')
		}
		out = append(out, text[i])
	}
	return string(out)
}

// security is what PodSecurity "restricted" asks for, and a file system that nobody writes to.
func (p *plan) security() *corev1.SecurityContext {
	yes, no, uid := true, false, p.uid
	s := &corev1.SecurityContext{
		RunAsUser: &uid, RunAsGroup: p.gid, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if nonRoot := uid != 0; nonRoot {
		s.RunAsNonRoot = &nonRoot
	} else {
		s.RunAsNonRoot = &no
	}
	return s
}

// sidecar is a native one: an init container that keeps running. Kubernetes starts the containers after it once its startup probe, or its
// postStart hook, has found it ready, and ends it after them, also of a Job.
func (p *plan) sidecar(text string) corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	c := corev1.Container{
		Name: sidecarName, Image: p.image, ImagePullPolicy: p.pullPolicy, RestartPolicy: &always,
		Command: []string{imageProgram, "agent"}, Env: p.environment(text), Resources: p.resources, SecurityContext: p.security(),
		VolumeMounts: append([]corev1.VolumeMount{{Name: keysVolume, MountPath: volumeDir}}, p.credentials()...),
	}
	if limit := p.resources.Limits.Memory(); !limit.IsZero() { // so that what is free is collected before the kernel ends the process
		c.Env = append(c.Env, corev1.EnvVar{Name: "GOMEMLIMIT", Value: strconv.FormatInt(limit.Value()/4*3, 10)})
	}
	if p.asks {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: apiVolume, MountPath: accountDir, ReadOnly: true})
	}
	waits := func(most time.Duration) *corev1.ExecAction {
		return &corev1.ExecAction{Command: []string{imageProgram, "status", "--socket=" + socketPath, "--ready", fmt.Sprintf("--wait=%.0fs", most.Seconds())}}
	}
	if p.gate == gatePostStart {
		c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: waits(hookWait)}}
	} else {
		c.StartupProbe = &corev1.Probe{
			ProbeHandler:   corev1.ProbeHandler{Exec: waits(readyWait)},
			TimeoutSeconds: int32(readyWait.Seconds()) + 5, PeriodSeconds: 1,
			FailureThreshold: 1 << 30, // for as long as Vault is away: to be restarted would not help
		}
	}
	if p.statusPort != 0 {
		c.Ports = append(c.Ports, corev1.ContainerPort{Name: "hyvve-status", ContainerPort: p.statusPort, Protocol: corev1.ProtocolTCP})
		c.LivenessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(p.statusPort)}},
			PeriodSeconds: 30, FailureThreshold: 3,
		}
	}
	return c
}

// installer copies the sidecar's program to where the container of exec mode runs it from.
func (p *plan) installer() corev1.Container {
	return corev1.Container{
		Name: installName, Image: p.image, ImagePullPolicy: p.pullPolicy, Command: []string{imageProgram, "install", programPath, "--make-directory=" + keysDir},
		Resources: p.resources, SecurityContext: p.security(),
		VolumeMounts: []corev1.VolumeMount{{Name: keysVolume, MountPath: volumeDir}, {Name: programVolume, MountPath: programDir}},
	}
}

// withdraw takes out what an earlier time has put in.
func withdraw(pod *corev1.Pod) error {
	mark := Domain + "/" + injectedName
	switch by, ok := pod.Annotations[mark]; {
	case !ok:
		return nil
	case by != injectedBy:
		return fmt.Errorf("annotation %s is the injector's own, and %q is none of its marks; take it out", mark, by)
	}
	delete(pod.Annotations, mark)
	spec := &pod.Spec
	spec.InitContainers = slices.DeleteFunc(spec.InitContainers, func(c corev1.Container) bool { return oursByContainer(c.Name) })
	spec.Volumes = slices.DeleteFunc(spec.Volumes, func(v corev1.Volume) bool { return oursByName(v.Name) })
	for _, all := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range all {
			withdrawFrom(&all[i])
		}
	}
	return nil
}

// whoSees returns the names of containers that an earlier time has let see the files.
func whoSees(pod *corev1.Pod) (names []string) {
	if pod.Annotations[Domain+"/"+injectedName] != injectedBy {
		return nil
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if !oursByContainer(c.Name) && slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == keysVolume }) {
			names = append(names, c.Name)
		}
	}
	return names
}

func oursByContainer(name string) bool { return name == sidecarName || name == installName }

func oursByName(volume string) bool {
	return volume == keysVolume || volume == tokenVolume || volume == caVolume || volume == apiVolume || volume == programVolume
}

func withdrawFrom(c *corev1.Container) {
	c.VolumeMounts = slices.DeleteFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return oursByName(m.Name) })
	if len(c.Command) < len(execCommand) || !slices.Equal(c.Command[:len(execCommand)], execCommand) {
		return
	}
	c.Command = slices.Clone(c.Command[len(execCommand):])
	names := []string{"HYVVE_POD", "HYVVE_NAMESPACE", "HYVVE_SIDECAR_INSTANCE", "HYVVE_SIDECAR_CONFIG_TEXT", "HYVVE_SIDECAR_LOG_LEVEL"}
	c.Env = slices.DeleteFunc(c.Env, func(e corev1.EnvVar) bool { return slices.Contains(names, e.Name) })
}
