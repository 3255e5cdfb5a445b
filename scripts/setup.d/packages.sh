# SPDX-License-Identifier: Apache-2.0
# A part of scripts/setup.

have_postgres() { compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v pg_config >/dev/null && [ -x "$(pg_config --bindir 2>/dev/null)/postgres" ]; }

missing=()
have_postgres || missing+=(postgresql)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
command -v jq >/dev/null || missing+=(jq)
has_dotenv='import dotenv'
python3 -c "$has_dotenv" 2>/dev/null || /usr/bin/python3 -c "$has_dotenv" 2>/dev/null || missing+=(python3-dotenv)

install_packages() {
	command -v apt-get >/dev/null || fail "missing: ${missing[*]}. This system has no apt-get; install them by hand and run again."
	[ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}. Run as root, or: sudo apt-get install -y ${missing[*]}"
	say "installing system packages: ${missing[*]} (their services are not started: we run our own, privately)"
	# Debian asks this program whether a package may start its service; 101 means no.
	local policy=/usr/sbin/policy-rc.d made=
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		made=yes
	fi
	local status=0 log
	log=$(mktemp)
	{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null || status=$?
	[ -z "$made" ] || rm -f "$policy"
	if [ "$status" != 0 ]; then
		tail -n 30 "$log" >&2
		rm -f "$log"
		fail "installing ${missing[*]} failed (above: the end of what apt-get said)"
	fi
	rm -f "$log"
	say "installed ${missing[*]}"
}
[ ${#missing[@]} = 0 ] || install_packages
