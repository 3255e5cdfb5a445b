// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/testkit"
)

func TestArguments(t *testing.T) { testkit.StartsNothing(t, "hyvve-demo") }
