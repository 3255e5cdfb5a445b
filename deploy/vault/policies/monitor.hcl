# SPDX-License-Identifier: Apache-2.0
# What Prometheus may do that scrapes the engine's metrics, and nothing else. They have names and numbers, never a value.
path "hyvve/metrics" {
  capabilities = ["read"]
}
