// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "regenerate the golden files")

var options = Options{
	Image: "registry.local/hyvve-sidecar:1", VaultAddress: "https://vault.vault:8200", CAConfigMap: "",
}

// shapes returns the pods of testdata in JSON, by name.
func shapes(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/pods/*.yaml")
	if err != nil || len(paths) < 45 {
		t.Fatalf("%d pods (%v)", len(paths), err)
	}
	all := map[string][]byte{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if all[strings.TrimSuffix(filepath.Base(path), ".yaml")], err = yaml.YAMLToJSON(text); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return all
}

// patched returns what a pod becomes by its patch.
func patched(t testing.TB, raw []byte) ([]byte, error) {
	t.Helper()
	operations, err := options.Patch(raw, "hyvve")
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(operations)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		t.Fatalf("the patch is none: %v", err)
	}
	out, err := patch.Apply(raw)
	if err != nil {
		t.Fatalf("the patch cannot be applied: %v\n%s", err, text)
	}
	return out, nil
}

// What becomes of each shape of a pod stands in testdata, the reason where it is refused. -update writes it.
func TestShapes(t *testing.T) {
	for name, raw := range shapes(t) {
		t.Run(name, func(t *testing.T) {
			out, err := patched(t, raw)
			text := ""
			if err != nil {
				text = err.Error() + "\n"
			} else {
				yes, err := yaml.JSONToYAML(out)
				if err != nil {
					t.Fatal(err)
				}
				text = string(yes)
			}
			if refused := strings.HasPrefix(name, "refused-"); refused != (err != nil && !errors.Is(err, ErrNotWanted)) || strings.HasPrefix(name, "not-") != errors.Is(err, ErrNotWanted) {
				t.Errorf("it is %v", err)
			}
			path := filepath.Join("testdata", "golden", name+".yaml")
			if *update {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil || string(want) != text {
				t.Errorf("(%v) want\n%s\ngot\n%s\nRun \"make generate\" if that is right", err, want, text)
			}
			if out != nil {
				checkInjected(t, raw, out)
			}
		})
	}
}

// checkInjected looks at what must hold of every injected pod: a second time changes nothing, and what was the pod's own is
// there as it was, but for mounts and, in exec mode, one command.
func checkInjected(t testing.TB, raw, out []byte) {
	t.Helper()
	again, err := patched(t, out)
	if err != nil {
		t.Fatalf("the injected pod is refused: %v\n%s", err, out)
	}
	if !jsonpatch.Equal(out, again) {
		t.Errorf("a second time makes\n%s\nof\n%s", again, out)
	}
	var before, after corev1.Pod
	if json.Unmarshal(raw, &before) != nil || json.Unmarshal(out, &after) != nil {
		t.Fatal("no pods")
	}
	if len(after.Spec.Containers) != len(before.Spec.Containers) || len(after.Spec.InitContainers) != len(before.Spec.InitContainers)+1 {
		t.Error("containers have come or gone")
	}
	if _, was := before.Annotations[Domain+"/"+injectedName]; was {
		return
	}
	if err := withdraw(&after); err != nil {
		t.Fatal(err)
	}
	if len(after.Spec.Volumes) != len(before.Spec.Volumes) || len(after.Spec.InitContainers) != len(before.Spec.InitContainers) {
		t.Error("what was put in cannot be taken out")
	}
}

// A container that comes after the injection, such as the proxy of a mesh, gets the keys if it can read them, and is no reason to
// refuse the pod if it cannot.
func TestContainersThatComeLater(t *testing.T) {
	for name, c := range map[string]struct {
		user int64
		sees bool
	}{"of the same user": {1000, true}, "of another": {1337, false}} {
		t.Run(name, func(t *testing.T) {
			var pod corev1.Pod
			if err := json.Unmarshal(shapes(t)["plain"], &pod); err != nil {
				t.Fatal(err)
			}
			if err := options.Inject(&pod, "hyvve"); err != nil {
				t.Fatal(err)
			}
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "later", SecurityContext: &corev1.SecurityContext{RunAsUser: &c.user}})
			for range 2 {
				if err := options.Inject(&pod, "hyvve"); err != nil {
					t.Fatal(err)
				}
				if got := whoSees(&pod); !slices.Contains(got, "api") || slices.Contains(got, "later") != c.sees {
					t.Errorf("keys are seen by %v", got)
				}
			}
		})
	}
}

// Options by which every pod would be refused are refused at once.
func TestOptions(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"":                       func(*Options) {},
		"image is missing":       func(o *Options) { o.Image = "" },
		"vault address is miss":  func(o *Options) { o.VaultAddress = "" },
		"holds a user":           func(o *Options) { o.VaultAddress = "https://u:p@vault" },
		"image pull policy":      func(o *Options) { o.ImagePullPolicy = "Sometimes" },
		"begins with auth/":      func(o *Options) { o.AuthMount = "auth/kubernetes" },
		"ca_cert needs TLS":      func(o *Options) { o.VaultAddress, o.CAConfigMap = "http://vault:8200", "vault-ca" },
		"is not a path of Vault": func(o *Options) { o.AuthMount = "a b" },
	} {
		o := options
		change(&o)
		if err := o.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// BenchmarkPatch is what a review costs besides TLS and HTTP.
func BenchmarkPatch(b *testing.B) {
	raw := shapes(b)["signal"]
	for b.Loop() {
		if _, err := options.Patch(raw, "hyvve"); err != nil {
			b.Fatal(err)
		}
	}
}

// What others put behind ours stays where it is, with fields of which nothing is known here.
func TestSecondTimeMovesNothing(t *testing.T) {
	for _, name := range []string{"plain", "init-containers-not", "exec", "signal"} {
		t.Run(name, func(t *testing.T) {
			out, err := patched(t, shapes(t)[name])
			if err != nil {
				t.Fatal(err)
			}
			var pod map[string]any
			if err := json.Unmarshal(out, &pod); err != nil {
				t.Fatal(err)
			}
			spec := pod["spec"].(map[string]any)
			add := func(into map[string]any, field string, element map[string]any) {
				list, _ := into[field].([]any)
				into[field] = append(list, element)
			}
			add(spec, "initContainers", map[string]any{"name": "later", "image": "x", "fromTheFuture": "1"})
			add(spec, "volumes", map[string]any{"name": "later", "fromTheFuture": map[string]any{"a": "b"}})
			for _, c := range spec["containers"].([]any) {
				add(c.(map[string]any), "env", map[string]any{"name": "LATER", "fromTheFuture": "2"})
				add(c.(map[string]any), "volumeMounts", map[string]any{"name": "later", "mountPath": "/later", "fromTheFuture": "3"})
			}
			raw, err := json.Marshal(pod)
			if err != nil {
				t.Fatal(err)
			}
			if operations, err := options.Patch(raw, "hyvve"); err != nil || len(operations) > 0 {
				t.Errorf("a second time does %v (%v)", operations, err)
			}
		})
	}
}

// A copy of an injected pod whose init containers are to see the keys now has the sidecar before them.
func TestCopyThatWantsMore(t *testing.T) {
	out, err := patched(t, shapes(t)["init-containers-not"])
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := json.Unmarshal(out, &pod); err != nil {
		t.Fatal(err)
	}
	user := int64(1000)
	for i := range pod.Spec.InitContainers {
		pod.Spec.InitContainers[i].SecurityContext = &corev1.SecurityContext{RunAsUser: &user}
	}
	pod.Annotations[Domain+"/init-containers"] = "true"
	if err := options.Inject(&pod, "hyvve"); err != nil {
		t.Fatal(err)
	}
	if inits := pod.Spec.InitContainers; inits[0].Name != sidecarName || len(inits) != 2 || len(inits[1].VolumeMounts) == 0 {
		t.Errorf("%+v", inits)
	}
}
