# SPDX-License-Identifier: Apache-2.0
output "policies" {
  description = "Names of the policies."
  value       = keys(local.policies)
}

output "roles" {
  description = "By workload: the service account whose pods log in, and the policy that they get."
  value       = local.roles
}
