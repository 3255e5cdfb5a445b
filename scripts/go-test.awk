# SPDX-License-Identifier: Apache-2.0
# Picks out of what "go test" printed, with -v or without, which tests failed and what they said.

# say keeps a line of the test that is being read.
function say(line) { said[++lines] = substr(line, 1, 600) }

# forget begins with another test.
function forget() { lines = 0; more = 0; name = "" }

# tell prints the test that failed, with the last lines that it said.
function tell(    i) {
	if (name != "") {
		print "what failed: " name
		for (i = lines > most ? lines - most + 1 : 1; i <= lines; i++) print said[i]
	}
	forget()
}

BEGIN { most = 12 }

# With -v, the lines of a test come before its verdict; without, after it.
/^=== / { verbose = 1 }
/^=== RUN/ || /^ *--- (PASS|SKIP)/ { tell(); next }
/^ *--- FAIL/ && verbose { name = $3; tell(); next }
/^ *--- FAIL/ { tell(); name = $3; next }

# What a test said itself, and some lines that belong to it; what it passed on of servers is left out.
/^ +[a-zA-Z0-9_]+_test\.go:[0-9]+: / { say($0); more = 6; next }
/^ +[a-zA-Z0-9_]+\.go:[0-9]+: / { more = 0; next }
/^        / { if (more-- > 0) say($0); next }

# What go says of programs and packages.
/^(panic:|fatal error:|WARNING: DATA RACE|# )/ || /^[^ ]+\.go:[0-9]+:[0-9]+: / { print "what failed: " substr($0, 1, 600); next }
/^FAIL[ \t]/ { tell(); print; next }
/^ok[ \t]/ { tell() }
END { tell() }
