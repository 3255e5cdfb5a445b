# SPDX-License-Identifier: Apache-2.0
locals {
  prefix = replace(var.mount, "/", ".") # no mount here has a dot: the policies of a/b and a-b are not the same
  people = ["viewer", "rotator", "definer", "restorer", "identifier", "monitor", "auditor", "operator"]

  # The files that setup.sh writes, too.
  policies = {
    for name in concat(keys(var.workloads), local.people) :
    "${local.prefix}-${name}" => replace(file("${path.module}/../policies/${name}.hcl"), "/(?m)^path \"hyvve\\//", "path \"${var.mount}/")
  }

  roles = {
    for name, account in var.workloads : name => {
      account = coalesce(account, name)
      policy  = "${local.prefix}-${name}"
    }
  }
}
