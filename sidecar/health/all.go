// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"strings"
	"sync"
)

// Gate is what a Checker may be besides: it compares how a workload is after a change with how it was before. Begin is
// called before a change is made. The change is named; one that is named again, as after a restart of the sidecar, goes
// on. An error says what will be missed; the gate works on as well as it can.
type Gate interface {
	Begin(ctx context.Context, change string) error
}

// Masker is what a Checker may be besides: its errors quote what others have said, in which mask hides values.
type Masker interface {
	WithMask(mask func(text string) string) Checker
}

// proof is an error that needs no second look.
type proof struct{ error }

// Unwrap returns the error itself.
func (p proof) Unwrap() error { return p.error }

// Proof makes an error one that is a verdict as it is.
func Proof(err error) error { return proof{err} }

// Proven reports whether an error of a Checker is a verdict as it is, such as that a counter has grown too much: neither
// time nor another look will make it undone.
func Proven(err error) bool {
	var p proof
	return errors.As(err, &p)
}

// All are several checkers, all of which must find the workload well. They look at the same time.
type All []Checker

var (
	_ Checker = All{}
	_ Gate    = All{}
	_ Masker  = All{}
)

// several are errors in one line.
type several []error

// Error implements error.
func (s several) Error() string {
	var texts []string
	for _, err := range s {
		texts = append(texts, err.Error())
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns them.
func (s several) Unwrap() []error { return s }

func (s several) orNil() error {
	s = without(s)
	switch len(s) {
	case 0:
		return nil
	case 1:
		return s[0]
	}
	return s
}

func without(errs []error) (found []error) {
	for _, err := range errs {
		if err != nil {
			found = append(found, err)
		}
	}
	return found
}

// Check implements Checker. Its error names all checks that fail.
func (a All) Check(ctx context.Context, etag string) error {
	errs := make(several, len(a))
	var group sync.WaitGroup
	for n, c := range a {
		group.Go(func() { errs[n] = c.Check(ctx, etag) })
	}
	group.Wait()
	return errs.orNil()
}

// Begin implements Gate, for those that are one.
func (a All) Begin(ctx context.Context, change string) error {
	errs := make(several, len(a))
	var group sync.WaitGroup
	for n, c := range a {
		if g, ok := c.(Gate); ok {
			group.Go(func() { errs[n] = g.Begin(ctx, change) })
		}
	}
	group.Wait()
	return errs.orNil()
}

// WithMask implements Masker, for those that are one.
func (a All) WithMask(mask func(string) string) Checker {
	masked := make(All, len(a))
	for n, c := range a {
		masked[n] = c
		if m, ok := c.(Masker); ok {
			masked[n] = m.WithMask(mask)
		}
	}
	return masked
}

// Now is what of a Checker can be asked of a process that has yet to take another's place: all but what compares before
// and after. It is nil if nothing is left.
func Now(c Checker) Checker {
	all, ok := c.(All)
	if !ok {
		if _, gate := c.(Gate); gate {
			return nil
		}
		return c
	}
	var left All
	for _, one := range all {
		if one := Now(one); one != nil {
			left = append(left, one)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return left
}
