# SPDX-License-Identifier: Apache-2.0
# What operators may do where one person does all of it: define keys, workloads and connections, rotate to given values, too, and
# look at everything but values. Where they are several, give viewer with rotator or definer instead. A user who may write connections
# and keys can make the engine log in elsewhere: give this policy to few. How much of the journal is kept is for auditor alone, and bringing
# retired versions back for restorer.
path "hyvve/config" {
  capabilities = ["read", "update"]
}

path "hyvve/connections/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

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

path "hyvve/journal" {
  capabilities = ["read", "list"]
}

path "hyvve/journal/*" {
  capabilities = ["read", "list"]
}

path "hyvve/metrics" {
  capabilities = ["read"]
}

path "hyvve/status" {
  capabilities = ["read"]
}
