// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path"
	"reflect"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty/gocty"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
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

// What a pod may have at most. Kubernetes itself takes 256 KiB of annotations, and 1.5 MiB of a pod as etcd stores it; the
// memory that a few bytes of JSON take once they are read is bounded here only.
const (
	maxElements = 4096  // of all lists of a pod
	maxMembers  = 16384 // of all objects of a pod

	maxAnnotations  = 128      // of ours
	maxOneText      = 4 << 10  // bytes of one that is no template
	maxTemplateText = 16 << 10 // bytes of a template
	maxText         = 32 << 10 // bytes of ours, names and values
	maxFiles        = 32       // rendered, and proxies, of one annotation
	maxPattern      = 2000     // instructions that a regular expression becomes
	maxFaults       = 20       // that a refusal of one pod lists
)

// What reading and injecting a pod takes in memory, at most, as was measured: for a byte of its JSON, and for an element of a list,
// of which {} alone becomes a whole container.
const (
	bytesPerByte    = 8
	bytesPerElement = 2 << 10
)

// Measure returns how many bytes of memory, at most, [Options.Patch] will take for a pod in JSON that is well formed. It refuses
// one that has more parts than a pod needs, without reading it.
func Measure(raw []byte) (cost int64, err error) {
	elements, members := parts(raw)
	switch {
	case elements > maxElements:
		return 0, fmt.Errorf("the pod's lists have more than %d entries together; take some out", maxElements)
	case members > maxMembers:
		return 0, fmt.Errorf("the pod has more than %d fields; take some out", maxMembers)
	}
	return int64(len(raw))*bytesPerByte + int64(elements)*bytesPerElement, nil
}

// parts counts the elements of lists and the members of objects. An empty list or object counts as if it had one.
func parts(raw []byte) (elements, members int) {
	lists := make([]bool, 0, 64) // of the lists and objects that are open, whether it is a list
	count := func() {
		switch {
		case len(lists) == 0:
		case lists[len(lists)-1]:
			elements++
		default:
			members++
		}
	}
	for n := 0; n < len(raw); n++ {
		switch raw[n] {
		case '"':
			for n++; n < len(raw) && raw[n] != '"'; n++ {
				if raw[n] == '\\' {
					n++
				}
			}
		case '[', '{':
			lists = append(lists, raw[n] == '[')
			count()
		case ',':
			count()
		case ']', '}':
			lists = lists[:max(0, len(lists)-1)]
		}
	}
	return elements, members
}

// fits refuses annotations of ours that are too many or too long: what is made of them takes time and memory.
func fits(all map[string]string) error {
	number, bytes := 0, 0
	for name, value := range all {
		if ours(name) {
			number, bytes = number+1, bytes+len(name)+len(value)
		}
	}
	switch {
	case number > maxAnnotations:
		return fmt.Errorf("the pod has %d annotations of %s; write no more than %d", number, Domain, maxAnnotations)
	case bytes > maxText:
		return fmt.Errorf("the annotations of %s are %d bytes long together; write no more than %d", Domain, bytes, maxText)
	}
	return nil
}

// long refuses the value of one annotation if it is too long.
func long(name, value string) error {
	most := maxOneText
	if strings.HasPrefix(name, templateName) {
		most = maxTemplateText
	}
	if len(value) > most {
		return fmt.Errorf("it is %d bytes long; write no more than %d", len(value), most)
	}
	return nil
}

// pattern refuses a regular expression that becomes too large once its repetitions are written out. One that cannot be read is for
// the sidecar's own check to refuse.
func pattern(text string) error {
	re, err := syntax.Parse(text, syntax.Perl)
	if err == nil && instructions(re) > maxPattern {
		return fmt.Errorf("the regular expression repeats too much; let what it repeats, times how often, be no more than %d in all", maxPattern)
	}
	return nil
}

func instructions(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)/2
	for _, sub := range re.Sub {
		n = min(n+instructions(sub), maxPattern+1)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(1, re.Min, re.Max)
	}
	return n
}

// configuration returns the text of a file in HCL.
func configuration(f config.File) string {
	known, err := json.Marshal(f)
	if err != nil { // which no value in it can bring about
		return write(f)
	}
	text, ok := written.get(string(known))
	if !ok {
		text = write(f)
		written.set(string(known), text)
	}
	return text
}

// write writes the text that configuration returns.
func write(f config.File) string {
	file := hclwrite.NewEmptyFile()
	writeOptions(file.Body(), reflect.ValueOf(f))
	return string(file.Bytes())
}

// writeOptions writes the options of a block that are set, and the blocks in it.
func writeOptions(body *hclwrite.Body, block reflect.Value) {
	for n := range block.NumField() {
		name, kind, _ := strings.Cut(block.Type().Field(n).Tag.Get("hcl"), ",")
		field := block.Field(n)
		switch {
		case field.IsZero() || kind == "label":
		case kind != "block":
			of, err := gocty.ImpliedType(field.Interface())
			if err != nil {
				continue // no option has such a type
			}
			if value, err := gocty.ToCtyValue(field.Interface(), of); err == nil {
				body.SetAttributeValue(name, value)
			}
		case field.Kind() == reflect.Slice:
			for n := range field.Len() {
				writeBlock(body, name, field.Index(n))
			}
		default:
			writeBlock(body, name, reflect.Indirect(field))
		}
	}
}

func writeBlock(body *hclwrite.Body, name string, block reflect.Value) {
	var labels []string
	if _, kind, _ := strings.Cut(block.Type().Field(0).Tag.Get("hcl"), ","); kind == "label" {
		labels = []string{block.Field(0).String()}
	}
	writeOptions(body.AppendNewBlock(name, labels).Body(), block)
}
