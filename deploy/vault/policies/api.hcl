# SPDX-License-Identifier: Apache-2.0
# What the sidecars of workload api may do: read its keys, wait for changes, and report.
path "hyvve/creds/api" {
  capabilities = ["read"]
}

path "hyvve/watch/api" {
  capabilities = ["read"]
}

path "hyvve/report/api" {
  capabilities = ["update"]
}

# Of leases only those whose identifiers one knows, which are those that one was given.
path "sys/leases/renew" {
  capabilities = ["update"]
}

path "sys/leases/revoke" {
  capabilities = ["update"]
}
