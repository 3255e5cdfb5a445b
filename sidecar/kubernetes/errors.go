// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// rule is one of RBAC.
type rule struct {
	verb, group, resource, name, namespace string
}

func (r rule) String() string {
	resource := r.resource
	if r.group != "" {
		resource += "." + r.group
	}
	text := fmt.Sprintf("the verb %q on %s", r.verb, resource)
	if r.name != "" {
		text += fmt.Sprintf(" with the name %q", r.name)
	}
	return fmt.Sprintf("%s in namespace %q", text, r.namespace)
}

// Unreachable is the error of a request that the API server did not answer. It may have acted or not.
type Unreachable struct {
	what string
	err  error
}

// Error implements error.
func (u *Unreachable) Error() string {
	return fmt.Sprintf("kubernetes: %s: the API server does not answer: %v", u.what, u.err)
}

// Unwrap returns the reason.
func (u *Unreachable) Unwrap() error { return u.err }

// Conflict is a field that somebody else manages.
type Conflict struct{ Manager, Field string }

// Error is a request that the API server has refused.
type Error struct {
	Code      int    // of HTTP
	Reason    string // of Kubernetes
	Message   string
	Conflicts []Conflict

	request request
	wait    time.Duration
}

// RetryAfter is how long the API server wants to be left alone.
func (e *Error) RetryAfter() time.Duration { return e.wait }

// longestWait bounds what a server may ask for.
const longestWait = time.Minute

// refusal reads an answer that is none of 2xx.
func refusal(r request, resp *http.Response, answer []byte) *Error {
	e := &Error{Code: resp.StatusCode, request: r}
	var status struct {
		Kind    string `json:"kind"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
		Details struct {
			Causes []struct {
				Reason  string `json:"reason"`
				Message string `json:"message"`
				Field   string `json:"field"`
			} `json:"causes"`
		} `json:"details"`
	}
	if json.Unmarshal(answer, &status) == nil && status.Kind == "Status" {
		e.Reason, e.Message = status.Reason, status.Message
		for _, c := range status.Details.Causes {
			if c.Reason == "FieldManagerConflict" {
				e.Conflicts = append(e.Conflicts, Conflict{Manager: manager(c.Message), Field: strings.TrimPrefix(c.Field, ".")})
			}
		}
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.wait = min(time.Duration(seconds)*time.Second, longestWait)
	}
	return e
}

// manager is the name in: conflict with "kubectl-edit" using v1.
func manager(message string) string {
	_, rest, ok := strings.Cut(message, `"`)
	name, _, ended := strings.Cut(rest, `"`)
	if !ok || !ended {
		return message
	}
	return name
}

// Error says what was refused, and what to do.
func (e *Error) Error() string {
	text := fmt.Sprintf("kubernetes: %s: the API server answered %d", e.request.what, e.Code)
	if e.Reason != "" {
		text += " " + e.Reason
	}
	if e.Message != "" && len(e.Conflicts) == 0 {
		text += ": " + e.Message
	}
	if advice := e.advice(); advice != "" {
		text += "; " + advice
	}
	return text
}

func (e *Error) advice() string {
	switch {
	case e.Code == http.StatusUnauthorized:
		return "the token of token_path is not taken: is it of this cluster, for its API server's audience, and not expired?"
	case e.Code == http.StatusForbidden && e.Reason == "Forbidden" && strings.Contains(e.Message, " cannot "):
		return "give the sidecar's account " + e.request.rule.String() + " (docs/kubernetes-secret.md has the Role)"
	case e.Code == http.StatusNotFound:
		return "create it, or mend name and namespace in the configuration"
	case len(e.Conflicts) > 0:
		return owned(e.Conflicts)
	case e.Code == http.StatusConflict:
		return "somebody else has changed it at the same moment; it is tried again"
	case e.Code == http.StatusUnprocessableEntity:
		return "mend the render or reload block"
	}
	return ""
}

// owned says who manages fields, and what to do.
func owned(conflicts []Conflict) string {
	var owners []string
	for _, c := range conflicts {
		owners = append(owners, fmt.Sprintf("%s is managed by %q", c.Field, c.Manager))
	}
	return strings.Join(owners, ", ") + "; take the field out of what that manager applies, or set force = true for the sidecar to take it over"
}

// notFound reports whether there is no such object.
func notFound(err error) bool {
	e := (*Error)(nil)
	return errors.As(err, &e) && e.Code == http.StatusNotFound
}

// Away reports whether an error is no word on the workload: the API server does not answer, or is overloaded.
func Away(err error) bool {
	e, u := (*Error)(nil), (*Unreachable)(nil)
	return errors.As(err, &u) || errors.As(err, &e) && (e.Code == http.StatusTooManyRequests || e.Code >= http.StatusInternalServerError)
}
