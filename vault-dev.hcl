# The configuration of the dev server that "make dev", "make demo" and the tests start, on top of "vault server -dev".
# Its listener, its storage (in memory) and its root token are the dev mode's own: the port is chosen at the start.
ui            = false
disable_mlock = true
log_level     = "info"
log_format    = "standard"

# A bundle's lease is short; nothing here may outlive a day.
default_lease_ttl = "1h"
max_lease_ttl     = "24h"

# The watch of a sidecar blocks for up to a minute. This is Vault's default, stated because it is relied on.
default_max_request_duration = "90s"
