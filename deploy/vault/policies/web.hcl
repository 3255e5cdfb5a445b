# SPDX-License-Identifier: Apache-2.0
# What the sidecars of workload web may do: read its keys, wait for changes, and report.
path "hyvve/creds/web" {
  capabilities = ["read"]
}

path "hyvve/watch/web" {
  capabilities = ["read"]
}

path "hyvve/report/web" {
  capabilities = ["update"]
}

# Of leases only those whose identifiers one knows, which are those that one was given.
path "sys/leases/renew" {
  capabilities = ["update"]
}

path "sys/leases/revoke" {
  capabilities = ["update"]
}
