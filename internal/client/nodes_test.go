// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// node is one node of a cluster; the test sets its answer.
type node struct {
	*httptest.Server
	asked atomic.Int64
	does  atomic.Pointer[http.HandlerFunc]
}

func (n *node) set(h http.HandlerFunc) { n.does.Store(&h) }

// serves answers a report, and checks that all of it has come.
func serves(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var report map[string]any
	if json.Unmarshal(body, &report) != nil || report["etag"] != "e" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	_, _ = fmt.Fprint(w, `{"data":{"etag":"next"}}`)
}

func status(code int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, `{"errors":[%q]}`, text)
	}
}

var (
	sealed     = status(http.StatusServiceUnavailable, "Vault is sealed")
	leaderless = status(http.StatusInternalServerError, "local node not active but active cluster node not found")
)

// namesActive is a standby that cannot forward.
func namesActive(n *node) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", n.URL+r.URL.Path)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

// loses takes the request and returns no answer.
func loses(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func cluster(t *testing.T, size int) (*Client, []*node) {
	t.Helper()
	var all []*node
	var addresses []string
	for range size {
		n := &node{}
		n.set(serves)
		n.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n.asked.Add(1)
			(*n.does.Load())(w, r)
		}))
		t.Cleanup(n.Close)
		all = append(all, n)
		addresses = append(addresses, n.URL)
	}
	config := api.DefaultConfig()
	config.MaxRetries = 0
	vault, err := NewVault(config, strings.Join(addresses, ", "))
	if err != nil {
		t.Fatal(err)
	}
	return New(vault, "hyvve"), all
}

func report(t *testing.T, c *Client) error {
	t.Helper()
	answer, err := c.Report(t.Context(), Report{Workload: "api", Instance: "i", Secret: key.NewValue("s"), Etag: "e"})
	if err == nil && answer.Etag != "next" {
		t.Errorf("the answer got lost: etag %q", answer.Etag)
	}
	return err
}

func counts(all []*node) (n []int64) {
	for _, one := range all {
		n = append(n, one.asked.Load())
	}
	return n
}

func TestNodesThatAreOfNoUseArePassedOver(t *testing.T) {
	for name, c := range map[string]struct {
		first func(all []*node)
		want  []int64 // requests after two reports
	}{
		"well":                        {func([]*node) {}, []int64{2, 0, 0}},
		"gone":                        {func(all []*node) { all[0].Close() }, []int64{0, 2, 0}},
		"two gone":                    {func(all []*node) { all[0].Close(); all[1].Close() }, []int64{0, 0, 2}},
		"sealed":                      {func(all []*node) { all[0].set(sealed) }, []int64{1, 2, 0}},
		"names the active one":        {func(all []*node) { all[0].set(namesActive(all[2])) }, []int64{1, 0, 2}},
		"names one that is gone":      {func(all []*node) { all[0].set(namesActive(all[2])); all[2].Close() }, []int64{1, 2, 0}},
		"names the one that was gone": {func(all []*node) { all[0].Close(); all[1].set(namesActive(all[0])) }, []int64{0, 1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			client, all := cluster(t, 3)
			c.first(all)
			for range 2 {
				if err := report(t, client); err != nil {
					t.Error(err)
				}
			}
			if got := counts(all); !slices.Equal(got, c.want) {
				t.Errorf("nodes were asked %v times, want %v", got, c.want)
			}
		})
	}
}

// What no node can do is an error to wait out, never an answer.
func TestNoNodeIsOfUse(t *testing.T) {
	for name, does := range map[string]func(all []*node){
		"gone":                         func(all []*node) { all[0].Close(); all[1].Close() },
		"sealed":                       func(all []*node) { all[0].set(sealed); all[1].set(sealed) },
		"leaderless":                   func(all []*node) { all[0].set(leaderless); all[1].set(leaderless) },
		"each names the other":         func(all []*node) { all[0].set(namesActive(all[1])); all[1].set(namesActive(all[0])) },
		"named, but gone, or sealed":   func(all []*node) { all[0].set(namesActive(all[1])); all[1].Close() },
		"one sealed, one names itself": func(all []*node) { all[0].set(sealed); all[1].set(namesActive(all[1])) },
	} {
		t.Run(name, func(t *testing.T) {
			client, all := cluster(t, 2)
			does(all)
			for range 2 {
				if err := report(t, client); !errors.Is(err, ErrUnavailable) {
					t.Errorf("error is %v", err)
				}
			}
			all[1].set(serves)
			if name == "sealed" {
				if err := report(t, client); err != nil {
					t.Errorf("after one was unsealed: %v", err)
				}
			}
		})
	}
}

// A request that a node may have acted on is the caller's to make again, and goes to another node then.
func TestWhatMayHaveBeenDoneIsNotDoneTwice(t *testing.T) {
	for name, does := range map[string]http.HandlerFunc{"no answer": loses, "an error of its own": leaderless} {
		t.Run(name, func(t *testing.T) {
			client, all := cluster(t, 2)
			all[0].set(does)
			if err := report(t, client); !errors.Is(err, ErrUnavailable) || all[1].asked.Load() != 0 {
				t.Errorf("error is %v, nodes were asked %v times", err, counts(all))
			}
			if err := report(t, client); err != nil || all[1].asked.Load() != 1 {
				t.Errorf("error is %v, nodes were asked %v times", err, counts(all))
			}
		})
	}
}

func TestAnotherNodeIsAskedAfterNoneInTime(t *testing.T) {
	client, all := cluster(t, 2)
	asked, release := make(chan struct{}), make(chan struct{})
	all[0].set(func(http.ResponseWriter, *http.Request) { close(asked); <-release })
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Creds(ctx, "api", "i"); err == nil {
		t.Error("no error")
	}
	<-asked
	if err := report(t, client); err != nil {
		t.Error(err)
	}
}

// A caller that stops waiting is no evidence against the node.
func TestTheNodeIsKeptWhenTheCallerGivesUp(t *testing.T) {
	client, all := cluster(t, 2)
	asked, release := make(chan struct{}), make(chan struct{})
	all[0].set(func(http.ResponseWriter, *http.Request) { close(asked); <-release })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := client.Watch(ctx, "api", "i", "e", time.Second); err == nil {
		t.Error("no error")
	}
	close(release)
	all[0].set(serves)
	if err := report(t, client); err != nil || all[1].asked.Load() != 0 {
		t.Errorf("error is %v, nodes were asked %v times", err, counts(all))
	}
}

// A node may name the active one by an address that only redirects use.
func TestRedirectsToElsewhereAreFollowed(t *testing.T) {
	client, all := cluster(t, 2)
	elsewhere := &node{Server: httptest.NewServer(http.HandlerFunc(serves))}
	defer elsewhere.Close()
	all[0].set(namesActive(elsewhere))
	if err := report(t, client); err != nil || all[1].asked.Load() != 0 {
		t.Errorf("error is %v, nodes were asked %v times", err, counts(all))
	}
}

func TestAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"http://a:8200": "[http://a:8200]", "unix:///run/vault.sock": "[unix:///run/vault.sock]",
		"https://a:8200/path":                             "[https://a:8200/path]",
		"https://a:8200,https://b:8200/ , https://a:8200": "[https://a:8200 https://b:8200]",
	} {
		if got, err := Addresses(text); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v, want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"https://a,": "address 2 of", "https://a,b:8200": "address 2 of", "https://a,https://b/path": "address 2 of",
		"https://a,unix:///x": "address 2 of", "https://a,http://b": "mixes http and https", "https://a,https://u:p@b": "address 2 of",
		"https://a,https://b:82000": "address 2 of", "a:8200": "not http://", "127.0.0.1:8200": "not http://", "https//a": "not http://",
		"http://": "not http://", "": "not http://", "http://a:82000": "port", "https://a:0": "port", "https://a:8200/v1/": "ends with /v1",
		"https://a:x": "not http://", "https://u:pass@:8200": "not http://",
	} {
		if got, err := Addresses(text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "pass") {
			t.Errorf("%q: %v, %v, want %s", text, got, err, want)
		}
	}
}
