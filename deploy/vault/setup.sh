#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up in Vault what sidecars in Kubernetes log in by. See usage below, or --help.
set -euo pipefail -f # a name is never a pattern of files
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
	cat <<'TEXT'
usage: setup.sh [flags]

Writes a policy for each workload and those for people (viewer, rotator, definer, restorer, identifier, monitor, auditor, operator), sets quotas,
enables Vault's kubernetes method, and makes a role for each workload, by which pods with the service account of the
workload's name log in. It uses the vault command, and so
VAULT_ADDR and the token that you have logged in with. To run it again changes only what is not as it should be.

  --namespace=NS[,NS]         namespaces of Kubernetes that the workloads run in; required, unless --policies-only
  --policies-only             only policies and quotas: Vault's kubernetes method is not touched
  --workloads=NAME[,NAME]     default: api,agents,web,prometheus; each has its policies/NAME.hcl (reencryptor has, too)
  --service-account=W=NAME    the service account of a workload, where it is not called as the workload; any number of times
  --kubernetes-host=URL       how Vault reaches the API server; default: https://kubernetes.default.svc, for a Vault in the
                              cluster; a method that is configured already stays so without this flag
  --kubernetes-ca=FILE        certificate of the API server's authority; default: that of Vault's own pod
  --reviewer-token=FILE       token that may review others (system:auth-delegator); default: that of Vault's own pod
  --audience=NAME             of the tokens that sidecars log in with; default: vault
  --token-ttl=DURATION        of Vault's tokens; default: 1h
  --rate-limit=N              requests a second from one address to the engine, each Vault server for itself; beyond that
                              Vault answers 429; default: 1000; 0: no quota is set, and one that is there stays
  --max-leases=N              leases of the engine in all; only Vault Enterprise has such quotas; default: none is set
  --mount=PATH                where the engine is mounted; default: hyvve. Policies are called PATH-NAME, with "." for "/"
  --auth-mount=PATH           where the kubernetes method is mounted; default: kubernetes
  --auth-plugin=NAME          name of the method in Vault's plugin catalog; default: kubernetes
  --dry-run                   say what would be done, without asking Vault
  --help
TEXT
}

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

namespaces= workloads=api,agents,web,prometheus host= ca= reviewer= audience=vault ttl=1h mount=hyvve auth=kubernetes plugin=kubernetes dry= rate=1000 leases= only=
people='viewer rotator definer restorer identifier monitor auditor operator'
declare -A accounts=()

for arg in "$@"; do
	value=${arg#*=}
	case $arg in
	--help | -h) usage; exit ;;
	--dry-run) dry=yes ;;
	--policies-only) only=yes ;;
	--namespace=* | --namespaces=*) namespaces=$value ;;
	--workloads=*) workloads=$value ;;
	--service-account=*=*) accounts[${value%%=*}]=${value#*=} ;;
	--service-account=*) fail "--service-account=$value: write WORKLOAD=NAME" ;;
	--kubernetes-host=*) host=$value ;;
	--kubernetes-ca=*) ca=$value ;;
	--reviewer-token=*) reviewer=$value ;;
	--audience=*) audience=$value ;;
	--token-ttl=*) ttl=$value ;;
	--rate-limit=*) rate=$value ;;
	--max-leases=*) leases=$value ;;
	--mount=*) mount=${value%/} ;;
	--auth-mount=*) auth=${value%/} ;;
	--auth-plugin=*) plugin=$value ;;
	*) fail "$arg is no flag of this script, or lacks its value after \"=\"; --help lists them" ;;
	esac
done

# What is wrong is said before anything is changed ------------------------------------------------------------------

matches() { [[ $1 =~ $2 ]] || fail "$3"; }

name='^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'
path='^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$'
[ -n "$namespaces$only" ] || fail "--namespace is missing; name the namespaces that the workloads run in, or write --policies-only"
[ -z "$only" ] || [ -z "$namespaces$host$ca$reviewer" ] || fail "--policies-only sets up nothing of Kubernetes; leave --namespace and --kubernetes-… out"
for n in ${namespaces//,/ }; do matches "$n" "$name" "--namespace: \"$n\" is no name of a namespace"; done
[ -n "${workloads//,/}" ] || fail "--workloads is empty; leave it out for all of them"
for w in ${workloads//,/ }; do
	matches "$w" "$name" "--workloads: \"$w\" is no name of a workload"
	[[ " $people " != *" $w "* ]] && [ -f "$here/policies/$w.hcl" ] ||
		fail "--workloads: there is no policy for \"$w\"; copy policies/api.hcl to policies/$w.hcl, and write $w in place of api in it"
done
for w in "${!accounts[@]}"; do
	[[ ,$workloads, == *,$w,* ]] || fail "--service-account=$w=${accounts[$w]}: $w is none of --workloads=$workloads"
	matches "${accounts[$w]}" "$name" "--service-account: \"${accounts[$w]}\" is no name of a service account"
done
matches "$mount" "$path" "--mount: \"$mount\" is no path of an engine"
[[ $mount != *[A-Z]* ]] || fail "--mount: \"$mount\" has capital letters, which Vault takes from the names of policies; mount the engine at ${mount,,}"
matches "$auth" "$path" "--auth-mount: \"$auth\" is no path of a method; write it without auth/"
[[ $auth != auth/* ]] || fail "--auth-mount: \"$auth\": write it without auth/"
matches "$audience" '^[^[:space:],]+$' "--audience: \"$audience\" is no audience"
matches "$plugin" '^[A-Za-z0-9_-]+$' "--auth-plugin: \"$plugin\" is no name of a plugin"
matches "$rate" '^(0|[1-9][0-9]{0,8})$' "--rate-limit: \"$rate\" is no number of requests a second"
[ -z "$leases" ] || matches "$leases" '^[1-9][0-9]{0,8}$' "--max-leases: \"$leases\" is no number of leases"
matches "$ttl" '^[1-9][0-9]*[smh]?$' "--token-ttl: \"$ttl\" is no duration; write it as in 30m or 1h"
[ -z "$host" ] || matches "$host" '^https?://[^/@[:space:]]+/?$' "--kubernetes-host: \"$host\" is no URL of an API server"
[ -n "$host" ] || [ -z "$ca$reviewer" ] || fail "--kubernetes-ca and --reviewer-token belong to --kubernetes-host, which is missing"
for f in "$ca" "$reviewer"; do [ -z "$f" ] || [ -r "$f" ] || fail "$f cannot be read; it was named by --kubernetes-ca or --reviewer-token"; done

run() {
	if [ -n "$dry" ]; then
		printf '  vault'
		printf ' %q' "$@"
		printf '\n'
		[ "${!#}" != - ] || sed 's/^/  | /'
	else
		vault "$@" >/dev/null || fail "vault $1 $2 has failed; above is why. What was done before stays; run this again when it is mended"
	fi
}

if [ -z "$dry" ]; then
	command -v vault >/dev/null || fail "there is no vault command; install it, or have it on PATH"
	vault token lookup >/dev/null || fail "Vault does not know who you are; set VAULT_ADDR, and log in (vault login) as somebody who may write policies and auth methods"
fi

# prefix is the mount's alone, since no mount here has a dot: the policies of a/b and a-b are not the same.
prefix=${mount//\//.}
if [ -z "$dry" ]; then
	for p in ${workloads//,/ } $people; do
		if ! there=$(vault policy read "$prefix-$p" 2>&1); then
			[[ $there == *'No policy named'* ]] || fail "policy $prefix-$p cannot be read, so that nobody knows whose it is; use a token that may read sys/policies/acl/*. Vault says: $there"
			continue
		fi
		[[ $there == *"path \"$mount/"* ]] ||
			fail "policy $prefix-$p is there, and has no path of the engine at $mount: it may be another engine's; read it by: vault policy read $prefix-$p. Mount this engine elsewhere, or delete the policy if nobody needs it: vault policy delete $prefix-$p"
	done
fi

# Policies ----------------------------------------------------------------------------------------------------------

# policy gives the text of one, for the engine where it is mounted.
policy() { sed "s#^path \"hyvve/#path \"$mount/#" "$here/policies/$1.hcl"; }

for p in ${workloads//,/ } $people; do
	if [ -z "$dry" ] && [ "$(vault policy read "$prefix-$p" 2>/dev/null)" = "$(policy "$p")" ]; then
		say "policy $prefix-$p is as it should be"
		continue
	fi
	say "writing policy $prefix-$p"
	policy "$p" | run policy write "$prefix-$p" -
done

# Quotas: of Vault's community edition those of requests, counted by address. --------------------------------------

quota() { # kind, then settings
	say "setting the quota $prefix of sys/quotas/$1: ${*:2}"
	run write "sys/quotas/$1/$prefix" path="$mount/" "${@:2}"
}

mounted=yes
if [ -z "$dry" ]; then
	mounts=$(vault secrets list -format=json) || fail "the mounts cannot be listed; above is why"
	grep -q "^  \"$mount/\": {" <<<"$mounts" || mounted=
fi
if [ -z "$mounted" ]; then
	say "there is no engine at $mount yet, so that no quota is set; mount it, and run this again"
else
	[ "$rate" = 0 ] || quota rate-limit rate="$rate" interval=1s
	[ -z "$leases" ] || quota lease-count max_leases="$leases"
fi

finish() { say "done; give $prefix-viewer with $prefix-rotator to those who rotate, with $prefix-definer to those who define, $prefix-auditor to neither, $prefix-restorer to those who bring retired versions back, $prefix-identifier to those who find leaked values, and $prefix-monitor to Prometheus"; }

if [ -n "$only" ]; then
	finish
	exit
fi

# The method --------------------------------------------------------------------------------------------------------

configured=
if [ -n "$dry" ]; then
	say "enabling auth/$auth, if it is not"
	run auth enable -path="$auth" "$plugin"
else
	methods=$(vault auth list -format=json) || fail "the auth methods cannot be listed; above is why"
	if grep -q "^  \"$auth/\": {" <<<"$methods"; then
		type=$(vault read -field=type "sys/auth/$auth")
		[ "$type" = "$plugin" ] || fail "auth/$auth is there, and is of type $type, not $plugin; choose another path by --auth-mount, or name the plugin by --auth-plugin"
		say "auth/$auth is enabled"
		! vault read "auth/$auth/config" >/dev/null 2>&1 || configured=yes
	else
		say "enabling auth/$auth"
		run auth enable -path="$auth" "$plugin"
	fi
fi

if [ -n "$configured" ] && [ -z "$host" ]; then
	say "auth/$auth stays configured as it is, since there is no --kubernetes-host"
else
	settings=(kubernetes_host="${host:-https://kubernetes.default.svc}")
	[ -z "$ca" ] || settings+=(kubernetes_ca_cert=@"$ca")
	[ -z "$reviewer" ] || settings+=(token_reviewer_jwt=@"$reviewer")
	# With either of its own, Vault must not look for those of a pod that it may not run in.
	[ -z "$ca$reviewer" ] || settings+=(disable_local_ca_jwt=true)
	say "configuring auth/$auth for ${host:-https://kubernetes.default.svc}"
	run write "auth/$auth/config" "${settings[@]}"
fi

# Roles -------------------------------------------------------------------------------------------------------------

for w in ${workloads//,/ }; do
	account=${accounts[$w]:-$w}
	say "writing role $w of auth/$auth: service account $account of $namespaces, policy $prefix-$w"
	run write "auth/$auth/role/$w" bound_service_account_names="$account" bound_service_account_namespaces="$namespaces" \
		audience="$audience" token_policies="$prefix-$w" token_ttl="$ttl"
done
finish
