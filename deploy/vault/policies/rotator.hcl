# SPDX-License-Identifier: Apache-2.0
# What somebody may do who rotates: start a rotation of values that the engine makes, and steer it. It may bring in no value of its
# own, nor say for how long the old one is retained (retain=0s erases it at the end). Give viewer, too.
path "hyvve/rotate" {
  capabilities      = ["update"]
  denied_parameters = { "value" = [], "retain" = [] }
}

path "hyvve/rotate/*" {
  capabilities      = ["update"]
  denied_parameters = { "value" = [], "retain" = [] }
}

path "hyvve/rotations/+/pause" {
  capabilities = ["update"]
}

path "hyvve/rotations/+/resume" {
  capabilities = ["update"]
}

path "hyvve/rotations/+/confirm" {
  capabilities = ["update"]
}

path "hyvve/rotations/+/revert" {
  capabilities = ["update"]
}

path "hyvve/rotations/+/compromised" {
  capabilities = ["update"]
}

path "hyvve/rotations/+/tune" {
  capabilities = ["update"]
}
