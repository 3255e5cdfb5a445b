// SPDX-License-Identifier: Apache-2.0

package login

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// podOf returns the pod and the node that the token of a service account is bound to, as its claims say ("Bound service
// account tokens" of Kubernetes; the node since release 1.30). Empty: they do not. Nothing is verified: it is for people.
func podOf(jwt string) (pod, node string) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return "", ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", ""
	}
	type named struct {
		Name string `json:"name"`
	}
	var claims struct {
		Kubernetes struct {
			Pod  named `json:"pod"`
			Node named `json:"node"`
		} `json:"kubernetes.io"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return "", ""
	}
	return dnsName(claims.Kubernetes.Pod.Name), dnsName(claims.Kubernetes.Node.Name)
}

func dnsName(name string) string {
	if key.ValidateDNSName(name) != nil {
		return ""
	}
	return name
}
