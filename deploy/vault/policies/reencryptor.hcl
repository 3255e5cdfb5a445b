# SPDX-License-Identifier: Apache-2.0
# What the sidecars of a workload of its own may do that only re-encrypts rows: read its keys, wait, report, and leave. Where another
# workload re-encrypts (reencrypts=true; of the preset: api), its own policy is enough, and nobody needs this one.
path "hyvve/creds/reencryptor" {
  capabilities = ["read", "update"]
}

path "hyvve/watch/reencryptor" {
  capabilities = ["read"]
}

path "hyvve/report/reencryptor" {
  capabilities = ["update"]
}

path "hyvve/leave/reencryptor" {
  capabilities = ["update"]
}
