# SPDX-License-Identifier: Apache-2.0
# A part of scripts/setup: Helm, which the chart is tested with.

helm=build/tools/helm
if ! stamped helm "$(sums_of helm)" $helm; then
	go_build Helm '1 to 3 minutes' helm $helm -ldflags '-s -w' helm.sh/helm/v4/cmd/helm
	sums_of helm >$helm.stamp
fi
