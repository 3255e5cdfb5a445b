# SPDX-License-Identifier: Apache-2.0
# What the sidecars of workload web may do: read its keys, wait for changes, report, and leave.
path "hyvve/creds/web" {
  capabilities = ["read", "update"]
}

path "hyvve/watch/web" {
  capabilities = ["read"]
}

path "hyvve/report/web" {
  capabilities = ["update"]
}

path "hyvve/leave/web" {
  capabilities = ["update"]
}
