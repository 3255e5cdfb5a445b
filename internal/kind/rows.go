// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"context"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// RowLook asks for a look at the rows that a key protects.
type RowLook struct {
	Columns []key.Column
	Value   key.Value  // that every row should open under
	Others  []RowValue // of further keys that have rows of their own in the columns
	Most    int        // rows of each column that are opened; 0: all
}

// RowValue is a value with the layout of what it opens.
type RowValue struct {
	Layout key.Layout
	Value  key.Value
}

// RowLooker is the optional capability of a Connector to look at rows with its own eyes: the engine is then a witness that no
// row needs a version which is about to be erased.
type RowLooker interface {
	// LookAtRows opens every envelope of the columns and counts: under Value as rotated, under one of Others as other, the
	// rest as bad, of the first Most rows of each column where that is set. It changes nothing, holds a few rows at a time, and leaves room for others on both machines. The report has
	// the place that was looked at. No error holds a value.
	LookAtRows(ctx context.Context, c Connection, look RowLook) (workload.WorkReport, error)
}
