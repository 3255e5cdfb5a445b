// SPDX-License-Identifier: Apache-2.0

package dsn

import (
	"errors"
	"fmt"
	"slices"
)

var redisSchemes = []string{"redis", "rediss"}

// redisPlaces are parameters that ioredis and redis-py let stand in for what the URL lacks before its query, and that other
// clients ignore or refuse.
var redisPlaces = []string{"host", "port", "path"}

// Redis reads a Redis URL. It refuses parameters that make some clients log in elsewhere, or as somebody else. Errors hold no
// part of the URL but names of parameters.
func Redis(text string) (URL, error) {
	u, err := Parse(text, redisSchemes...)
	if err != nil {
		return u, err
	}
	for _, p := range u.parameters() {
		if name := p.plainName(); slices.Contains(redisPlaces, name) {
			return u, fmt.Errorf("the URL's query holds the parameter %q, which some clients use and others ignore; leave it out: write host and port before the path, as redis://cache:6379/0", name)
		}
	}
	databases := u.Query()["db"]
	if path := u.Path(); path != "" {
		databases = append(databases, path)
	}
	slices.Sort(databases)
	if len(slices.Compact(databases)) > 1 {
		return u, errors.New("the URL names several databases, in its path and in the parameter \"db\", and clients differ in which one they use; leave all but one out")
	}
	return u, nil
}
