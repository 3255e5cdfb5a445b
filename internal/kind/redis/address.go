// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// defaultPort is Redis's, for URLs that name none.
const defaultPort = "6379"

// defaultUser is whom a URL means that names no user.
const defaultUser = "default"

// addresses are the hosts of a URL as host:port. The error quotes nothing: somebody may have put a password in.
func addresses(u dsn.URL) ([]string, error) {
	var all []string
	for _, host := range strings.Split(u.Host(), ",") {
		addr, ok := address(host)
		if !ok {
			return nil, errors.New("the URL's host is not host:port with a port from 1 to 65535, as redis://cache:6379/0")
		}
		all = append(all, addr)
	}
	return all, nil
}

// address completes host[:port].
func address(text string) (string, bool) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port, err = net.SplitHostPort(text + ":" + defaultPort)
	}
	n, numeric := strconv.Atoi(port)
	if err != nil || host == "" || numeric != nil || n < 1 || n > 65535 {
		return "", false
	}
	return net.JoinHostPort(host, port), true
}

// loopback reports whether an address is this host's own, as far as one sees without asking for names.
func loopback(addr string) bool {
	host, _, _ := net.SplitHostPort(addr)
	return kind.IsLoopback(host)
}

// checkDatabase refuses a database that is no number: clients take it for 0, or fail.
func checkDatabase(u dsn.URL) error {
	text := u.Path()
	if text == "" {
		text = u.Query().Get("db")
	}
	if n, err := strconv.Atoi(text); text != "" && (err != nil || n < 0) {
		return errors.New("the URL's database, after the host, is not a number; write one, as redis://cache:6379/0")
	}
	return nil
}

// database is what a URL selects: by its path, or by its parameter db. A URL that an earlier release stored may have one that
// is no number.
func database(u dsn.URL) int {
	text := u.Path()
	if text == "" {
		text = u.Query().Get("db")
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}
