# SPDX-License-Identifier: Apache-2.0
# What operators may do: define keys, workloads and connections, rotate, and look at everything but values. Whoever may write
# connections and keys can make the engine log in elsewhere: give this policy to few.
path "hyvve/config" {
  capabilities = ["read", "update"]
}

path "hyvve/connections/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

path "hyvve/keys/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

path "hyvve/workloads/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

path "hyvve/presets/hyvve" {
  capabilities = ["read", "update"]
}

path "hyvve/rotate" {
  capabilities = ["update"]
}

path "hyvve/rotate/*" {
  capabilities = ["update"]
}

path "hyvve/rotations/*" {
  capabilities = ["read", "update", "list"]
}

path "hyvve/journal/*" {
  capabilities = ["read", "list"]
}

path "hyvve/status" {
  capabilities = ["read"]
}
