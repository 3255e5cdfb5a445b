// SPDX-License-Identifier: Apache-2.0

package mask

import "slices"

// finder finds many patterns in one pass over a text (Aho and Corasick). Nodes are numbered in order of their depth, so that the
// children of a node follow each other.
type finder struct {
	label   []byte  // by which a node follows its parent, in the order of bytes among the children of one
	first   []int32 // child of a node; the last of them is before the first child of the next node
	suffix  []int32 // the node of the longest proper suffix that is in the tree
	longest []int32 // length of the longest pattern that ends at a node
}

// newFinder makes a finder of patterns, which are sorted and not empty, and each of which is there once.
func newFinder(patterns []string) *finder {
	type node struct{ from, to, depth, parent int32 } // from and to: which patterns begin with it
	f := &finder{label: []byte{0}}
	nodes := []node{{to: int32(len(patterns))}} //nolint:gosec // of limited size
	work := 0
	for n := int32(0); int(n) < len(nodes); n++ {
		at, suffix, longest := nodes[n], int32(0), int32(0)
		f.first = append(f.first, int32(len(nodes))) //nolint:gosec // of limited size
		if at.parent > 0 {
			suffix = f.next(f.suffix[at.parent], f.label[n], &work)
			longest = f.longest[suffix]
		}
		if at.from < at.to && len(patterns[at.from]) == int(at.depth) {
			longest = at.depth
			at.from++
		}
		f.suffix, f.longest = append(f.suffix, suffix), append(f.longest, longest)
		for from := at.from; from < at.to; {
			b, to := patterns[from][at.depth], from
			for to < at.to && patterns[to][at.depth] == b {
				to++
			}
			f.label, nodes = append(f.label, b), append(nodes, node{from, to, at.depth + 1, n})
			from = to
		}
	}
	f.first = append(f.first, int32(len(nodes))) //nolint:gosec // of limited size
	return f
}

// next returns the node of the longest suffix of what was read, a byte later.
func (f *finder) next(node int32, b byte, work *int) int32 {
	for {
		*work++
		children := f.label[f.first[node]:f.first[node+1]]
		if at, ok := slices.BinarySearch(children, b); ok {
			return f.first[node] + int32(at) //nolint:gosec // at most 255
		}
		if node == 0 {
			return 0
		}
		node = f.suffix[node]
	}
}

// find appends where patterns of a least length are.
func (f *finder) find(found []span, s stream, least int32) []span {
	node := int32(0)
	for n, b := range s.text {
		node = f.next(node, b, s.work)
		if length := f.longest[node]; length >= max(least, 1) {
			found = append(found, span{s.at[n-int(length)+1].begin, s.at[n].end})
		}
	}
	return found
}
