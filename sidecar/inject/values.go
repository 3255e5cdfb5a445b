// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"errors"
	"fmt"
	"net"
	"path"
	"regexp"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

// What follows makes entries of the table.

func text(name, takes, standard, what string, at func(*settings) *string) annotation {
	return annotation{name: name, takes: takes, standard: standard, text: what, set: func(s *settings, _, v string) error {
		*at(s) = v
		return nil
	}}
}

func truth(name, what string, at func(*settings) *bool) annotation {
	return annotation{name: name, takes: "`true` or `false`", standard: "`false`", text: what, set: func(s *settings, _, v string) error {
		if err := usage.OneOf(v, []string{"true", "false"}); err != nil {
			return err
		}
		*at(s) = v == "true"
		return nil
	}}
}

func choice(name string, options []string, standard, what string, at func(*settings) *string) annotation {
	takes := "`" + strings.Join(options, "`, `") + "`"
	return annotation{name: name, takes: takes, standard: standard, text: what, set: func(s *settings, _, v string) error {
		*at(s) = v
		return usage.OneOf(v, options)
	}}
}

func number(name, standard, what string, at func(*settings) **int64) annotation {
	return annotation{name: name, takes: "number", standard: standard, text: what, set: func(s *settings, _, v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 || n > 1<<31-1 {
			return errors.New("write a number, such as 1000")
		}
		*at(s) = &n
		return nil
	}}
}

func quantity(name, standard, what string, at func(*settings) *resource.Quantity) annotation {
	return annotation{name: name, takes: "quantity", standard: standard, text: what, set: func(s *settings, _, v string) (err error) {
		*at(s), err = positive(v)
		return err
	}}
}

func amount(name, standard string, at func(*settings) *corev1.ResourceList, of corev1.ResourceName) annotation {
	what := map[bool]string{true: "What the sidecar may take at most.", false: "What is reserved for the sidecar."}[strings.HasSuffix(name, "limit")]
	return annotation{name: name, takes: "quantity", standard: standard, text: what, set: func(s *settings, _, v string) error {
		q, err := positive(v)
		if err == nil {
			(*at(s))[of] = q
		}
		return err
	}}
}

func positive(v string) (resource.Quantity, error) {
	q, err := resource.ParseQuantity(v)
	if err != nil || q.Sign() <= 0 {
		return q, errors.New("write a quantity as Kubernetes has them, such as 50m or 64Mi")
	}
	return q, nil
}

func list(v string) []string {
	var all []string
	for part := range strings.SplitSeq(v, ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}

func port(v string) (int32, error) {
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 1 || n > 65535 {
		return 0, fmt.Errorf("%q is no port; write a number from 1 to 65535", v)
	}
	return int32(n), nil
}

func pullPolicy(v string) (corev1.PullPolicy, error) {
	if v == "" {
		return "", nil
	}
	return corev1.PullPolicy(v), usage.OneOf(v, []string{string(corev1.PullAlways), string(corev1.PullIfNotPresent), string(corev1.PullNever)})
}

// nameForm is a file's name that is also good as the end of an annotation's.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`)

func fileName(name string) error {
	if !nameForm.MatchString(name) || strings.Trim(name, ".") == "" || strings.HasPrefix(name, ".hyvve") || name == programName {
		return fmt.Errorf("%q is not the name of a file; use letters, digits, '.', '_' and '-', and no directory", name)
	}
	return nil
}

// standardNames are those of files for which none is given.
var standardNames = map[render.Format]string{
	render.Dotenv: ".env", render.Docker: "docker.env", render.JSON: "secrets.json", render.Bundle: "bundle.json", render.Files: "values",
}

func setRender(s *settings, _, v string) error {
	s.formats = []config.RenderBlock{} // given, though perhaps none
	if v == "none" {
		return nil
	}
	if err := checkLength(v); err != nil {
		return err
	}
	for _, part := range list(v) {
		format, name, named := strings.Cut(part, ":")
		standard, ok := standardNames[render.Format(format)]
		if !ok {
			return fmt.Errorf("%q is not a format%s; it is one of dotenv, docker, json, bundle, files", format, usage.DidYouMean(format, []string{"dotenv", "docker", "json", "bundle", "files", "none"}))
		}
		if !named {
			name = standard
		}
		if err := fileName(name); err != nil {
			return err
		}
		s.formats = append(s.formats, config.RenderBlock{Format: format, Path: name})
	}
	return nil
}

// checkLength refuses a list of more than maxFiles entries: each pair of its entries is compared.
func checkLength(v string) error {
	if n := len(list(v)); n > maxFiles {
		return fmt.Errorf("it has %d entries; write no more than %d", n, maxFiles)
	}
	return nil
}

func setProxy(s *settings, _, v string) error {
	if err := checkLength(v); err != nil {
		return err
	}
	for _, part := range list(v) {
		fields := strings.Split(part, ":")
		if len(fields) < 3 || len(fields) > 4 {
			return fmt.Errorf("%q is not PORT:UPSTREAM:KEY, such as 8081:3000:AGENT_SERVICE_TOKEN", part)
		}
		for _, p := range fields[:2] {
			if _, err := port(p); err != nil {
				return err
			}
		}
		if err := key.ValidateEnv(fields[2]); err != nil {
			return err
		}
		block := config.ProxyBlock{
			Listen: ":" + fields[0], Upstream: "http://" + net.JoinHostPort("127.0.0.1", fields[1]), Key: fields[2],
			State: path.Join(keysDir, ".proxy-"+fields[2]+"-"+fields[0]+".hyvve"),
		}
		if len(fields) == 4 {
			block.Header = fields[3]
		}
		s.file.Proxy = append(s.file.Proxy, block)
	}
	return nil
}
