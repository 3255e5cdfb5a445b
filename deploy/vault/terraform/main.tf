# SPDX-License-Identifier: Apache-2.0
# What setup.sh does, for those who keep Vault by Terraform.
resource "vault_policy" "this" {
  for_each = local.policies
  name     = each.key
  policy   = each.value
}

resource "vault_auth_backend" "kubernetes" {
  type = "kubernetes"
  path = var.auth_mount
}

resource "vault_kubernetes_auth_backend_config" "this" {
  backend              = vault_auth_backend.kubernetes.path
  kubernetes_host      = var.kubernetes_host
  kubernetes_ca_cert   = var.kubernetes_ca_cert
  token_reviewer_jwt   = var.token_reviewer_jwt
  disable_local_ca_jwt = var.kubernetes_ca_cert != null || var.token_reviewer_jwt != null
}

resource "vault_kubernetes_auth_backend_role" "this" {
  for_each                         = local.roles
  backend                          = vault_auth_backend.kubernetes.path
  role_name                        = each.key
  bound_service_account_names      = [each.value.account]
  bound_service_account_namespaces = var.namespaces
  audience                         = var.audience
  token_policies                   = [each.value.policy]
  token_ttl                        = var.token_ttl

  depends_on = [vault_kubernetes_auth_backend_config.this, vault_policy.this]
}

resource "vault_quota_rate_limit" "this" {
  count    = var.rate_limit > 0 ? 1 : 0
  name     = local.prefix
  path     = "${var.mount}/"
  rate     = var.rate_limit
  interval = 1
}

resource "vault_quota_lease_count" "this" {
  count      = var.max_leases == null ? 0 : 1
  name       = local.prefix
  path       = "${var.mount}/"
  max_leases = var.max_leases
}
