# SPDX-License-Identifier: Apache-2.0
# What the sidecars of workload api may do: read its keys, wait for changes, report, and leave.
path "hyvve/creds/api" {
  capabilities = ["read", "update"]
}

path "hyvve/watch/api" {
  capabilities = ["read"]
}

path "hyvve/report/api" {
  capabilities = ["update"]
}

path "hyvve/leave/api" {
  capabilities = ["update"]
}
