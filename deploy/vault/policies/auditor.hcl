# SPDX-License-Identifier: Apache-2.0
# What somebody may do who sets how much of the journal is kept at least, and reads all of it. Give it to nobody who may define
# or rotate: those are whom the journal is about.
path "hyvve/journal" {
  capabilities = ["read", "list"]
}

path "hyvve/journal/*" {
  capabilities = ["read", "list"]
}

path "hyvve/journal/config" {
  capabilities = ["read", "update"]
}
