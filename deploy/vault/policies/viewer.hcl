# SPDX-License-Identifier: Apache-2.0
# What somebody may do who looks, and changes nothing. Give it together with rotator and definer, which cannot look.
path "hyvve/status" {
  capabilities = ["read"]
}

path "hyvve/metrics" {
  capabilities = ["read"]
}

path "hyvve/keys" {
  capabilities = ["list"]
}

path "hyvve/keys/" {
  capabilities = ["list"]
}

path "hyvve/keys/+" {
  capabilities = ["read"]
}

path "hyvve/rotations" {
  capabilities = ["list"]
}

path "hyvve/rotations/" {
  capabilities = ["list"]
}

path "hyvve/rotations/+" {
  capabilities = ["read"]
}

path "hyvve/rotations/+/receipt" {
  capabilities = ["read"]
}

path "hyvve/workloads" {
  capabilities = ["list"]
}

path "hyvve/workloads/" {
  capabilities = ["list"]
}

path "hyvve/workloads/+" {
  capabilities = ["read"]
}

path "hyvve/workloads/+/instances" {
  capabilities = ["list"]
}

path "hyvve/workloads/+/instances/" {
  capabilities = ["list"]
}

path "hyvve/workloads/+/instances/+" {
  capabilities = ["read"]
}

path "hyvve/journal" {
  capabilities = ["read", "list"]
}

path "hyvve/journal/*" {
  capabilities = ["read", "list"]
}
