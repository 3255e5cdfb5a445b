# SPDX-License-Identifier: Apache-2.0
# What somebody may do who finds out what a value is that was found: whether it is ours, which version, and what accepts it. Answers
# name keys, instances and commands, never a value. Each request is journaled. Give it to people on call, and to scanners for leaked
# secrets.
path "hyvve/identify" {
  capabilities = ["update"]
}
