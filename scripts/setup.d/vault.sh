# SPDX-License-Identifier: Apache-2.0
# A part of scripts/setup: a Vault server, the one of PATH if it is 1.19 or newer.

# new_enough tells whether a vault binary is 1.19 or newer.
new_enough() {
	local version
	version=$("$1" version 2>/dev/null | sed -n 's/^Vault v\([0-9]*\)\.\([0-9]*\)\..*/\1 \2/p')
	[ -n "$version" ] || return 1
	set -- $version
	[ "$1" -gt 1 ] || { [ "$1" = 1 ] && [ "$2" -ge 19 ]; }
}

vault=build/tools/vault
if command -v vault >/dev/null && new_enough "$(command -v vault)"; then
	mkdir -p build/tools
	[ "$(readlink "$vault" 2>/dev/null)" = "$(command -v vault)" ] || { ln -sf "$(command -v vault)" "$vault"; rm -f "$vault.stamp"; say "using $(command -v vault)"; }
elif ! stamped vault "$(sums_of vault)" "$vault"; then
	go_build Vault '3 to 7 minutes' vault "$vault" -tags minimal -ldflags '-s -w' github.com/hashicorp/vault
	sums_of vault >"$vault.stamp"
fi
