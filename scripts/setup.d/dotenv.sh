# SPDX-License-Identifier: Apache-2.0
# A part of scripts/setup.

# What most applications on Node read env files with. Rendered files are read back with it.
dotenv=build/tools/dotenv
dotenv_package=dotenv@16.6.1
dotenv_sum=7495c5d7f2182736e3c40d280a72486ee93c278463a94f901a47266dffb47a82

fetch_dotenv() {
	say "fetching npm's $dotenv_package"
	mkdir -p build/tools
	local dir
	dir=$(mktemp -d "$PWD/$dotenv.XXXXXX")
	trap "rm -rf '$dir'" EXIT
	npm pack --silent --ignore-scripts --pack-destination "$dir" "$dotenv_package" >"$dir/log" 2>&1 </dev/null || { tail -n 30 "$dir/log" >&2; fail "fetching $dotenv_package failed (above: the end of what npm said)"; }
	echo "$dotenv_sum  $(echo "$dir"/*.tgz)" | sha256sum --check --status || fail "$dotenv_package is not what it was when it was pinned here: its checksum differs"
	tar -xzf "$dir"/*.tgz -C "$dir" --no-same-owner
	rm -rf "$dotenv"
	mv "$dir/package" "$dotenv"
	rm -rf "$dir"
	trap - EXIT
	echo "$dotenv_package $dotenv_sum" >"$dotenv.stamp"
}

[ "$(cat "$dotenv.stamp" 2>/dev/null)" = "$dotenv_package $dotenv_sum" ] || fetch_dotenv
