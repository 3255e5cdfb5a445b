// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"fmt"
	"regexp/syntax"
	"strings"
)

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
