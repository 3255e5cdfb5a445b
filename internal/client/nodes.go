// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// NewVault makes a client of the Vault at an address, or of a cluster by the addresses of its nodes with commas between
// them. Any node will do, since a standby forwards to the active one; one that does not answer or is sealed is passed
// over. The rest of config is used as it is.
func NewVault(config *api.Config, address string) (*api.Client, error) {
	addresses, err := Addresses(address)
	if err != nil {
		return nil, err
	}
	config.Address = addresses[0]
	if len(addresses) > 1 && config.AgentAddress == "" {
		config.HttpClient.Transport = newNodes(addresses, config.HttpClient.Transport)
	}
	return api.NewClient(config)
}

// Addresses reads what NewVault takes. One address alone may also be a socket, or have a path before Vault's own.
func Addresses(text string) ([]string, error) {
	if !strings.Contains(text, ",") {
		return []string{text}, checkAddress(text)
	}
	var all []string
	scheme := ""
	for n, part := range strings.Split(text, ",") {
		part = strings.TrimSuffix(strings.TrimSpace(part), "/")
		u, err := url.Parse(part)
		if err != nil || u.Host == "" || u.Port() != "" && !GoodPort(u.Port()) || u.Scheme+"://"+u.Host != part || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("address %d of the list is not one; write addresses such as https://vault-1:8200 with commas between them", n+1)
		}
		if scheme != "" && u.Scheme != scheme {
			return nil, errors.New("a list of addresses mixes http and https; write all with https")
		}
		scheme = u.Scheme
		if !slices.Contains(all, part) {
			all = append(all, part)
		}
	}
	return all, nil
}

// checkAddress refuses one that no request can be made to. It is not quoted: it may hold a password.
func checkAddress(text string) error {
	if strings.HasPrefix(text, "unix://") {
		return nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("it is not http:// or https:// with a host; write one such as https://vault:8200")
	case u.Port() != "" && !GoodPort(u.Port()):
		return errors.New("its port is no number from 1 to 65535; write one such as https://vault:8200")
	case strings.HasSuffix(strings.TrimSuffix(u.Path, "/"), "/v1"):
		return errors.New("it ends with /v1, which requests add by themselves; take that off")
	}
	return nil
}

// GoodPort reports whether a port can be listened at, or connected to.
func GoodPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// nodes sends what goes to the first node of a cluster to whichever node is of use. It stays with that one.
type nodes struct {
	hosts []string // host:port; requests name the first one
	below http.RoundTripper

	mu  sync.Mutex
	now int // index of the node in use
}

// dialLimit is for a node that is switched off and refuses nothing: the others are to have their turn.
const dialLimit = 5 * time.Second

func newNodes(addresses []string, below http.RoundTripper) *nodes {
	n := &nodes{below: below}
	for _, a := range addresses {
		_, host, _ := strings.Cut(a, "://")
		n.hosts = append(n.hosts, host)
	}
	if t, ok := below.(*http.Transport); ok {
		t.DialContext = (&net.Dialer{Timeout: dialLimit, KeepAlive: 30 * time.Second}).DialContext
	}
	return n
}

var errNoActive = errors.New("no node of the cluster that answers knows an active one that does")

// RoundTrip tries the nodes in turn, from the one in use on, as long as it is certain that none has taken the request.
// Where that is not certain, the caller has to ask again, and then asks the next node.
func (n *nodes) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != n.hosts[0] {
		return n.below.RoundTrip(req) // a redirect to elsewhere
	}
	if req.Body != nil {
		defer req.Body.Close() //nolint:errcheck // each try reads a copy
	}
	at, problem := n.inUse(), errNoActive
	for tried := make([]bool, len(n.hosts)); at >= 0; {
		tried[at] = true
		next := untried(tried, at)
		resp, err := n.send(req, at)
		switch {
		case err != nil:
			if next >= 0 && neverSent(err) {
				problem = err
				break
			}
			if !errors.Is(err, context.Canceled) {
				n.use((at + 1) % len(n.hosts))
			}
			return nil, err
		case n.active(resp) >= 0:
			// A standby that cannot forward names the active node.
			if active := n.active(resp); !tried[active] {
				next = active
			}
			discard(resp)
		case resp.StatusCode == http.StatusServiceUnavailable && next >= 0:
			discard(resp) // sealed, or overloaded
		case resp.StatusCode >= http.StatusInternalServerError:
			n.use((at + 1) % len(n.hosts))
			return resp, nil
		default:
			n.use(at)
			return resp, nil
		}
		at = next
	}
	return nil, problem
}

// CloseIdleConnections is what http.Client asks for by that name.
func (n *nodes) CloseIdleConnections() {
	if below, ok := n.below.(interface{ CloseIdleConnections() }); ok {
		below.CloseIdleConnections()
	}
}

// send sends a copy of the request to one node.
func (n *nodes) send(req *http.Request, at int) (*http.Response, error) {
	try := req.Clone(req.Context())
	try.URL.Host, try.Host = n.hosts[at], n.hosts[at]
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		try.Body = body
	}
	return n.below.RoundTrip(try)
}

func (n *nodes) inUse() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

func (n *nodes) use(at int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = at
}

// active returns the node that an answer redirects to; -1 if it is no redirect to one of the nodes.
func (n *nodes) active(resp *http.Response) int {
	if resp.StatusCode != http.StatusTemporaryRedirect {
		return -1
	}
	to, err := resp.Location()
	if err != nil || to.Scheme != resp.Request.URL.Scheme {
		return -1
	}
	return slices.Index(n.hosts, to.Host)
}

// untried returns the node after at that has not been tried; -1 if all have.
func untried(tried []bool, at int) int {
	for i := range tried {
		if k := (at + i) % len(tried); !tried[k] {
			return k
		}
	}
	return -1
}

// neverSent reports whether not even a connection came about.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !errors.Is(err, context.Canceled)
}

func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 1<<16)
	_ = resp.Body.Close()
}
