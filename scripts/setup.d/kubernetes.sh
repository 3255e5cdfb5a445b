# SPDX-License-Identifier: Apache-2.0
# A part of scripts/setup: Kubernetes from its own Go module, and what it stands on (etcd, containerd, runc, network plugins,
# nft) out of the system's packages, unpacked and not installed. Only for processors of x86_64 and arm64 on Debian's kind of system.

kubernetes=build/tools/kubernetes
kubernetes_version=v1.34.4

# kubernetes_flags stamps the version into the binaries, as its own build does.
kubernetes_flags() {
	local flags='-s -w' package
	for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $package.gitMajor=1 -X $package.gitMinor=34 -X $package.gitVersion=$kubernetes_version -X $package.gitTreeState=archive"
	done
	printf %s "$flags"
}

kubernetes_binaries='kube-apiserver kubectl kube-controller-manager kube-scheduler kubelet kube-proxy'
if ! stamped kubernetes "$(sums_of kubernetes)" $(printf "$kubernetes/%s " $kubernetes_binaries); then
	say "building Kubernetes $kubernetes_version: 7 to 15 minutes the first time in all, nothing afterwards"
	for binary in $kubernetes_binaries; do
		go_build "$binary" 'half a minute to 10 minutes' kubernetes $kubernetes/$binary -ldflags "$(kubernetes_flags)" k8s.io/kubernetes/cmd/$binary
	done
	sums_of kubernetes >$kubernetes.stamp
fi

# What stands below it, in one root of its own.
below=build/tools/kubernetes-root
below_packages='etcd-server containerd runc containernetworking-plugins nftables libnftables1 libnftnl11 busybox-static'

unpack_below() {
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "this system has no apt-get, from whose packages etcd, containerd, runc, network plugins and nft are unpacked for the tests on Kubernetes"
	say "unpacking $below_packages from the system's packages, without installing them: 60 MB"
	local dir package
	dir=$(mktemp -d "$PWD/$below.XXXXXX")
	trap "rm -rf '$dir'" EXIT
	chmod 755 "$dir" # apt-get fetches as a user of its own
	(cd "$dir" && { apt-get download -q $below_packages || { [ "$(id -u)" = 0 ] && apt-get update -q && apt-get download -q $below_packages; }; }) >"$dir/log" 2>&1 </dev/null ||
		{ tail -n 30 "$dir/log" >&2; fail "fetching $below_packages failed (above: the end of what apt-get said)"; }
	mkdir "$dir/root"
	for package in "$dir"/*.deb; do
		dpkg-deb --fsys-tarfile "$package" | tar -x -C "$dir/root" --no-same-owner
	done
	rm -rf "$below"
	mv "$dir/root" "$below"
	rm -rf "$dir"
	trap - EXIT
	echo "$below_packages" >$below.stamp
	say "unpacked them"
}

stamped kubernetes-root "$below_packages" $below/usr/bin/etcd $below/usr/bin/containerd $below/usr/sbin/runc $below/usr/lib/cni/bridge || unpack_below
