// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"net"
	"net/http"
)

// Get asks the sidecar that answers at a socket for one of the Handler's paths. The answer's body is to be closed, as any.
func Get(ctx context.Context, socket, path string) (*http.Response, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sidecar"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	return transport.RoundTrip(req)
}
