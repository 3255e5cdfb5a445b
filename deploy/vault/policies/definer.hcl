# SPDX-License-Identifier: Apache-2.0
# What somebody may do who defines keys, workloads and connections, and the defaults of all of them. It starts no rotation by hand;
# a key's first value, and when it rotates by itself, are part of its definition. A user who may write connections and keys can make
# the engine log in elsewhere: give this to few. Give viewer, too.
path "hyvve/keys" {
  capabilities = ["list"]
}

path "hyvve/keys/" {
  capabilities = ["list"]
}

path "hyvve/keys/+" {
  capabilities = ["create", "read", "update", "delete"]
}

path "hyvve/keys/+/reconcile" {
  capabilities = ["update"]
}

path "hyvve/keys/+/acknowledge" {
  capabilities = ["update"]
}

path "hyvve/keys/+/erase" {
  capabilities = ["update"]
}

# Instead of witness=none of the key: for one rotation.
path "hyvve/rotations/+/accept-witness" {
  capabilities = ["update"]
}

path "hyvve/connections" {
  capabilities = ["list"]
}

path "hyvve/connections/" {
  capabilities = ["list"]
}

path "hyvve/connections/+" {
  capabilities = ["create", "read", "update", "delete"]
}

path "hyvve/connections/+/rotate-root" {
  capabilities = ["update"]
}

path "hyvve/workloads" {
  capabilities = ["list"]
}

path "hyvve/workloads/" {
  capabilities = ["list"]
}

path "hyvve/workloads/+" {
  capabilities = ["create", "read", "update", "delete"]
}

path "hyvve/workloads/+/instances" {
  capabilities = ["list"]
}

path "hyvve/workloads/+/instances/" {
  capabilities = ["list"]
}

path "hyvve/workloads/+/instances/+" {
  capabilities = ["read", "delete"]
}

path "hyvve/presets/hyvve" {
  capabilities = ["read", "update"]
}

path "hyvve/config" {
  capabilities = ["read", "update"]
}
