# SPDX-License-Identifier: Apache-2.0
# A part of scripts/setup.

# The package would bring a service, a user and files all over the system; a server of our own needs its binary alone, and tests of alerts
# need promtool.
prometheus=build/tools/prometheus
promtool=build/tools/promtool

unpack_prometheus() {
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "missing: prometheus. This system has no apt-get; put prometheus and promtool on PATH and run again."
	say "unpacking Prometheus from the system's package, without installing it: 19 MB"
	mkdir -p build/tools
	local dir
	dir=$(mktemp -d "$PWD/$prometheus.XXXXXX")
	trap "rm -rf '$dir'" EXIT
	chmod 755 "$dir" # apt-get fetches as a user of its own
	# The lists of packages may be missing, or too old for what the archive still has.
	(cd "$dir" && { apt-get download -q prometheus || { [ "$(id -u)" = 0 ] && apt-get update -q && apt-get download -q prometheus; }; }) >"$dir/log" 2>&1 </dev/null ||
		{ tail -n 30 "$dir/log" >&2; fail "fetching the package prometheus failed (above: the end of what apt-get said); put prometheus and promtool on PATH, or run as root"; }
	dpkg-deb --fsys-tarfile "$dir"/prometheus_*.deb | tar -x -C "$dir" --no-same-owner ./usr/bin/prometheus ./usr/bin/promtool
	mv "$dir/usr/bin/prometheus" "$prometheus"
	mv "$dir/usr/bin/promtool" "$promtool"
	rm -rf "$dir"
	trap - EXIT
	say "unpacked Prometheus"
}

{ [ -x "$prometheus" ] || command -v prometheus >/dev/null; } && { [ -x "$promtool" ] || command -v promtool >/dev/null; } || unpack_prometheus
