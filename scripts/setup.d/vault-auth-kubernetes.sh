# SPDX-License-Identifier: Apache-2.0
# A part of scripts/setup: Vault's plugin for auth/kubernetes, which a minimal server does not have.

auth=vault-plugin-auth-kubernetes
if ! stamped $auth "$(sums_of $auth)" build/tools/$auth; then
	go_build "Vault's plugin for auth/kubernetes" '1 to 2 minutes' $auth build/tools/$auth -ldflags '-s -w' github.com/hashicorp/$auth/cmd/$auth
	sums_of $auth >build/tools/$auth.stamp
fi
