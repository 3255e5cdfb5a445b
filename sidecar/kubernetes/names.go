// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// What the API server takes (k8s.io/apimachinery/pkg/util/validation).
var (
	label        = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	subdomain    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	dataKey      = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)
	qualified    = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
	longestLabel = 63
	longestName  = 253
)

// CheckName refuses what cannot be the name of an object.
func CheckName(field, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is missing", field)
	case len(name) > longestName || !subdomain.MatchString(name):
		return fmt.Errorf("%s = %q cannot be the name of an object: it is lower-case letters, digits, - and ., at most %d of them", field, name, longestName)
	}
	return nil
}

// CheckNamespace refuses what cannot be the name of a namespace.
func CheckNamespace(field, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is missing; set it here or in the kubernetes block", field)
	case len(name) > longestLabel || !label.MatchString(name):
		return fmt.Errorf("%s = %q cannot be the name of a namespace: it is lower-case letters, digits and -, at most %d of them", field, name, longestLabel)
	}
	return nil
}

// checkDataKey refuses what cannot be a key of a Secret's data.
func checkDataKey(name string) error {
	if len(name) > longestName || !dataKey.MatchString(name) || name == "." || strings.HasPrefix(name, "..") {
		return fmt.Errorf("data: %q cannot be a key of a Secret: it is letters, digits, -, _ and ., at most %d of them", name, longestName)
	}
	return nil
}

// checkQualified refuses what cannot be the key of a label or an annotation.
func checkQualified(field, name string) error {
	prefix, rest, prefixed := strings.Cut(name, "/")
	if !prefixed {
		prefix, rest = "", name
	}
	if prefixed && (len(prefix) > longestName || !subdomain.MatchString(prefix)) || len(rest) > longestLabel || !qualified.MatchString(rest) {
		return fmt.Errorf("%s: %q cannot be a key there: it is letters, digits, -, _ and ., at most %d of them, perhaps after a domain and /", field, name, longestLabel)
	}
	if prefix == ownDomain || strings.HasSuffix(prefix, "."+ownDomain) {
		return fmt.Errorf("%s: %q is the sidecar's own; take it out", field, name)
	}
	return nil
}

func checkLabelValue(name, value string) error {
	if value != "" && (len(value) > longestLabel || !qualified.MatchString(value)) {
		return fmt.Errorf("labels: the value of %q is none: it is letters, digits, -, _ and ., at most %d of them", name, longestLabel)
	}
	return nil
}

const (
	ownDomain = "hyvve.app"
	// changedKey, at a Secret, is when its data last became other. It names what the data is, and tells nothing of it.
	changedKey = ownDomain + "/changed"
)

// templateKey is the annotation of a pod template that says which change of a Secret it was restarted for. Pods get it from
// their template, so that each says what it has read.
func templateKey(secret string) string {
	if len(secret) > longestLabel {
		sum := sha256.Sum256([]byte(secret))
		const kept = 46
		secret = strings.TrimRight(secret[:kept], "-.") + "-" + hex.EncodeToString(sum[:8])
	}
	return "secret." + ownDomain + "/" + secret
}
