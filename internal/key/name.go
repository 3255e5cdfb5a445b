// SPDX-License-Identifier: Apache-2.0

package key

import (
	"fmt"
	"regexp"
	"strings"
)

const maxName = 128

var (
	nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)
	envForm  = regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`)

	dnsForm      = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	instanceForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$`)
)

// ValidateName checks the name of a key, workload or connection; what is the word for it in the message.
func ValidateName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s name is empty", what)
	case len(name) > maxName:
		return fmt.Errorf("%s name is %d characters long; at most %d are allowed", what, len(name), maxName)
	case strings.Contains(name, "/"):
		return fmt.Errorf("%s name %q contains a slash; use lower-case letters, digits, '-', '_' and '.', such as %q",
			what, name, strings.ReplaceAll(strings.ToLower(strings.Trim(name, "/")), "/", "-"))
	case !nameForm.MatchString(name):
		return fmt.Errorf("%s name %q is not allowed; use lower-case letters, digits, '-', '_' and '.', beginning and ending with a letter or digit", what, name)
	}
	return nil
}

// ValidateEnv checks the environment name of a key.
func ValidateEnv(env string) error {
	if !envForm.MatchString(env) {
		return fmt.Errorf("env %q is not an environment name; use upper-case letters, digits and '_', such as AGENT_SERVICE_TOKEN", env)
	}
	return nil
}

// ValidateInstance checks the name of an instance of a workload.
func ValidateInstance(id string) error {
	if !instanceForm.MatchString(id) {
		return fmt.Errorf("instance %q is not allowed; use letters, digits, '-', '_' and '.', at most 128, beginning and ending with a letter or digit, such as a pod's name", id)
	}
	return nil
}

// ValidateDNSName checks the name of a pod or a node of Kubernetes.
func ValidateDNSName(name string) error {
	if !dnsForm.MatchString(name) {
		return fmt.Errorf("%q is no name that Kubernetes gives; use lower-case letters, digits, '-' and '.', at most 253", name)
	}
	return nil
}

// EnvFor is the environment name that a key has where none is given: its name in upper case.
func EnvFor(name string) string {
	return strings.NewReplacer("-", "_", ".", "_").Replace(strings.ToUpper(name))
}
