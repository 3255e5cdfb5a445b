// SPDX-License-Identifier: Apache-2.0

package reload

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// grafana answers as Grafana's API does, after its documentation and its source (pkg/api/admin_provisioning.go): only to
// POST, and to basic authentication. Grafana itself cannot be had for tests.
func grafana(t *testing.T, password *string) (url string, reloads *int) {
	t.Helper()
	reloads = new(int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		user, given, ok := r.BasicAuth()
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		answer := func(status int, message string) {
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"message":%q}`, message)
		}
		switch {
		case r.Method != http.MethodPost || r.URL.Path != "/api/admin/provisioning/datasources/reload" || r.URL.RawQuery != "":
			answer(http.StatusNotFound, "Not found")
		case !ok || user != "admin" || given != *password:
			answer(http.StatusUnauthorized, "Invalid username or password")
		case len(body) > 0:
			answer(http.StatusBadRequest, "a body was not expected")
		default:
			*reloads++
			answer(http.StatusOK, "Datasources config reloaded")
		}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/api/admin/provisioning/datasources/reload", reloads
}

func TestGrafanaContract(t *testing.T) {
	password := canary
	url, reloads := grafana(t, &password)
	file := secretFile(t, "admin:"+canary+"\n")
	h := HTTP{URL: url, BasicAuthFile: file, Timeout: 10 * time.Second}
	if err := h.Reload(t.Context()); err != nil || *reloads != 1 {
		t.Fatalf("%d reloads, %v", *reloads, err)
	}
	password = canary + "-next" // Grafana's own password changes first, and the file after it
	err := h.Reload(t.Context())
	if err == nil || errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), `401 Unauthorized: {"message":"Invalid username or password"}`) || strings.Contains(err.Error(), canary) {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("admin:"+password), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Reload(t.Context()); err != nil || *reloads != 2 {
		t.Errorf("%d reloads, %v", *reloads, err)
	}
}
