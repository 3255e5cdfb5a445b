# SPDX-License-Identifier: Apache-2.0
variable "namespaces" {
  description = "Namespaces of Kubernetes that the workloads run in."
  type        = list(string)
  validation {
    condition     = length(var.namespaces) > 0 && alltrue([for n in var.namespaces : can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", n))])
    error_message = "Name the namespaces that the workloads run in: at least one, and each as Kubernetes has it."
  }
}

variable "workloads" {
  description = "Workloads and the service accounts of their pods; null: called as the workload. Each has its policies/NAME.hcl."
  type        = map(string)
  default     = { api = null, agents = null, web = null, prometheus = null }
  validation {
    condition     = length(var.workloads) > 0 && length(setintersection(keys(var.workloads), ["viewer", "rotator", "definer", "restorer", "identifier", "monitor", "auditor", "operator"])) == 0
    error_message = "Name at least one workload; viewer, rotator, definer, restorer, identifier, monitor, auditor and operator are none."
  }
}

variable "kubernetes_host" {
  description = "How Vault reaches the API server."
  type        = string
  default     = "https://kubernetes.default.svc"
}

variable "kubernetes_ca_cert" {
  description = "Certificate of the API server's authority, in PEM; null: that of Vault's own pod."
  type        = string
  default     = null
}

variable "token_reviewer_jwt" {
  description = "Token that may review others (system:auth-delegator); null: that of Vault's own pod. It is kept in the state."
  type        = string
  default     = null
  sensitive   = true
}

variable "audience" {
  description = "Audience of the tokens that sidecars log in with."
  type        = string
  default     = "vault"
}

variable "token_ttl" {
  description = "Life of Vault's tokens, in seconds."
  type        = number
  default     = 3600
}

variable "rate_limit" {
  description = "Requests a second from one address to the engine, each Vault server for itself; 0: no quota."
  type        = number
  default     = 1000
}

variable "max_leases" {
  description = "Leases of the engine in all; null: no quota. Only Vault Enterprise has such quotas."
  type        = number
  default     = null
}

variable "mount" {
  description = "Where the engine is mounted. Policies are called MOUNT-NAME, with \".\" for \"/\"."
  type        = string
  default     = "hyvve"
  validation {
    condition     = can(regex("^[a-z0-9_-]+(/[a-z0-9_-]+)*$", var.mount))
    error_message = "The mount is no path of an engine: lower-case letters, digits, _ and -, in parts with / between. Vault takes capital letters from the names of policies."
  }
}

variable "auth_mount" {
  description = "Where the kubernetes method is mounted, without auth/."
  type        = string
  default     = "kubernetes"
}
