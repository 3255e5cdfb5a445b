// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A pod of which the sidecar will not know that it has ended is injected, with a warning.
func TestWarningOfAnUnseenEnd(t *testing.T) {
	const grants = "podReaders"
	for name, c := range map[string]struct {
		annotations, spec string
		want              string
	}{
		"nothing":                    {"", `"serviceAccountName":"digest"`, grants},
		"the default account":        {"", ``, grants},
		"an account that may":        {"", `"serviceAccountName":"reader"`, ""},
		"one that may, unmounted":    {"", `"serviceAccountName":"reader","automountServiceAccountToken":false`, ""},
		"on-stop: leave":             {`"hyvve.app/on-stop":"leave"`, ``, ""},
		"a port":                     {`"hyvve.app/health":"tcp","hyvve.app/health-address":"127.0.0.1:1"`, ``, ""},
		"a port of the proxy":        {`"hyvve.app/proxy":"8081:3000:TOKEN","hyvve.app/keys":"TOKEN","hyvve.app/health":"tcp","hyvve.app/health-address":"127.0.0.1:8081"`, ``, grants},
		"a signal":                   {`"hyvve.app/reload":"signal","hyvve.app/process":"app"`, ``, ""},
		"exec":                       {`"hyvve.app/exec":"app"`, ``, ""},
		"a long name of an account":  {"", fmt.Sprintf(`"serviceAccountName":%q`, strings.Repeat("a", 253)), grants},
		"an account of another name": {"", `"serviceAccountName":"other"`, grants},
	} {
		t.Run(name, func(t *testing.T) {
			all, spec := `"hyvve.app/inject":"true","hyvve.app/workload":"web"`, `"securityContext":{"runAsUser":1000},"containers":[{"name":"app","image":"app:1","command":["app"]}]`
			if c.annotations != "" {
				all += "," + c.annotations
			}
			if c.spec != "" {
				spec += "," + c.spec
			}
			o := options
			o.PodReaders = []string{"other/other", "apps/reader"}
			_, warnings, err := o.Review(fmt.Appendf(nil, `{"metadata":{"annotations":{%s}},"spec":{%s}}`, all, spec), "apps")
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Join(warnings, "\n")
			if (text == "") != (c.want == "") || !strings.Contains(text, c.want) || len(warnings) > 1 || len(text) > 256 {
				t.Errorf("%d bytes: %q, want %q", len(text), warnings, c.want)
			}
		})
	}
}

// A sidecar that may ask about its pod has a token for that, of the injector's: what Kubernetes itself puts into the sidecar's container
// is not there any more when the injector is called again. Nobody else's container has it, and no sidecar that may not ask.
func TestSidecarThatAsksHasAToken(t *testing.T) {
	read := func(o Options, annotations string) *corev1.Pod {
		t.Helper()
		pod := &corev1.Pod{}
		pod.Annotations = map[string]string{Domain + "/inject": "true", Domain + "/workload": "web", Domain + "/" + annotations: "app"}
		if annotations == "" {
			delete(pod.Annotations, Domain+"/")
		}
		user := int64(1000)
		pod.Spec = corev1.PodSpec{ServiceAccountName: "reader", SecurityContext: &corev1.PodSecurityContext{RunAsUser: &user}, Containers: []corev1.Container{{Name: "app", Command: []string{"app"}}}}
		for range 2 {
			if err := o.Inject(pod, "apps"); err != nil {
				t.Fatal(err)
			}
			for n := range pod.Spec.InitContainers { // as the API server does in between
				c := &pod.Spec.InitContainers[n]
				if !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == accountDir }) {
					c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "kube-api-access-x", MountPath: accountDir})
				}
			}
		}
		if err := o.Inject(pod, "apps"); err != nil {
			t.Fatal(err)
		}
		return pod
	}
	reader := options
	reader.PodReaders = []string{"apps/reader"}
	count := func(pod *corev1.Pod) (volumes, mounts int) {
		for _, v := range pod.Spec.Volumes {
			if v.Name == apiVolume {
				volumes++
			}
		}
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			for _, m := range c.VolumeMounts {
				if m.Name == apiVolume && m.MountPath == accountDir && c.Name == sidecarName {
					mounts++
				} else if m.MountPath == accountDir {
					t.Errorf("container %s has the mount %+v", c.Name, m)
				}
			}
		}
		return volumes, mounts
	}
	if volumes, mounts := count(read(reader, "")); volumes != 1 || mounts != 1 {
		t.Errorf("%d volumes, %d mounts", volumes, mounts)
	}
	for name, pod := range map[string]*corev1.Pod{"an account that may not": read(options, ""), "exec": read(reader, "exec")} {
		if volumes, mounts := count(pod); volumes+mounts != 0 {
			t.Errorf("%s: %d volumes, %d mounts", name, volumes, mounts)
		}
	}
}
