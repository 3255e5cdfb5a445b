// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

func TestArguments(t *testing.T) { kit.StartsNothing(t, "hyvve-demo") }
