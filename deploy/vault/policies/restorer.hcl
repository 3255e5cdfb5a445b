# SPDX-License-Identifier: Apache-2.0
# What somebody may do who brings a retired version of a key back while its value is retained: rows of a backup need it, or somebody
# was locked out after all. It makes a value valid again that was taken away, and is part of no other policy. Give viewer, too.
path "hyvve/keys" {
  capabilities = ["list"]
}

path "hyvve/keys/" {
  capabilities = ["list"]
}

path "hyvve/keys/+" {
  capabilities = ["read"]
}

path "hyvve/keys/+/undelete" {
  capabilities = ["update"]
}

path "hyvve/keys/+/retire" {
  capabilities = ["update"]
}
