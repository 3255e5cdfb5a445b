# SPDX-License-Identifier: Apache-2.0
# What the sidecars of workload agents may do: read its keys, wait for changes, report, and leave.
path "hyvve/creds/agents" {
  capabilities = ["read", "update"]
}

path "hyvve/watch/agents" {
  capabilities = ["read"]
}

path "hyvve/report/agents" {
  capabilities = ["update"]
}

path "hyvve/leave/agents" {
  capabilities = ["update"]
}
