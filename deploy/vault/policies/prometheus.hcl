# SPDX-License-Identifier: Apache-2.0
# What the sidecars of workload prometheus may do: read its keys, wait for changes, report, and leave.
path "hyvve/creds/prometheus" {
  capabilities = ["read", "update"]
}

path "hyvve/watch/prometheus" {
  capabilities = ["read"]
}

path "hyvve/report/prometheus" {
  capabilities = ["update"]
}

path "hyvve/leave/prometheus" {
  capabilities = ["update"]
}
