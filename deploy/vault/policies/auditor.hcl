# SPDX-License-Identifier: Apache-2.0
# What somebody may do who sets how much of the journal is kept at least, and reads all of it, and the receipts of rotations. Give it to nobody who may define
# or rotate: those are whom the journal is about.
path "hyvve/journal" {
  capabilities = ["read", "list"]
}

path "hyvve/journal/*" {
  capabilities = ["read", "list"]
}

path "hyvve/rotations" {
  capabilities = ["list"]
}

path "hyvve/rotations/" {
  capabilities = ["list"]
}

path "hyvve/rotations/+/receipt" {
  capabilities = ["read"]
}

path "hyvve/journal/config" {
  capabilities = ["read", "update"]
}
