// SPDX-License-Identifier: Apache-2.0

package http

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// handleOf returns what is known of a version of a change.
func handleOf(c kind.Change, v key.Version) handle {
	h, _ := readHandle(c.Key.Options, v)
	return h
}

// known returns the ids of the key's versions that are in use, or may be, but for one.
func known(c kind.Change, but key.Version) map[string]int {
	ids := map[string]int{}
	for _, v := range append(slices.Clone(c.Key.Versions), c.From, c.To) {
		if h, ok := readHandle(c.Key.Options, v); ok && v.State.Live() && v.Number != but.Number {
			ids[h.id] = v.Number
		}
	}
	return ids
}

// strays returns what the provider lists that attempts at a version have made and that is not the version's value, below a number of
// attempts; 0: of all attempts. Values of other versions are none, whatever the provider calls them.
func strays(c kind.Change, v key.Version, items []item, below int) (ids []string) {
	h := handleOf(c, v)
	if h.label == "" {
		return nil
	}
	keep := known(c, v)
	for _, i := range items {
		n := attemptOf(h.label, i.label)
		if _, used := keep[i.id]; n > 0 && (below == 0 || n < below) && i.id != h.id && !used {
			ids = append(ids, i.id)
		}
	}
	return ids
}

// foreign returns an error if the provider does not name values, and lists one that no version of the key is. It may have been made
// by an attempt whose answer was lost. Nobody but an operator can tell.
func (p *provider) foreign(c kind.Change, items []item) error {
	if len(p.listLabel) > 0 {
		return nil
	}
	ids := known(c, key.Version{})
	var unknown []string
	for _, i := range items {
		if _, ok := ids[i.id]; !ok && !slices.Contains(p.others, i.id) {
			unknown = append(unknown, kind.Line(i.id, 64))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	return fmt.Errorf("the provider lists %d values that no version of key %s is: %s. One of them may have been made for it while the answer was lost. Revoke at the provider what nobody uses; "+
		"set %s=ID if it is the value that was imported, or %s=ID if it is somebody else's",
		len(unknown), c.Key.Name, strings.Join(unknown[:min(len(unknown), 5)], ", "), optionImportedID, optionOthers)
}

// sweep revokes strays, and sees that they are gone. It returns what the provider lists then.
func (p *provider) sweep(ctx context.Context, c kind.Change, v key.Version, below int) ([]item, error) {
	items, err := p.list(ctx)
	if err != nil {
		return nil, err
	}
	lost := strays(c, v, items, below)
	if len(lost) == 0 {
		return items, nil
	}
	for _, id := range lost {
		if err := p.revoke(ctx, id); err != nil {
			return nil, err
		}
	}
	if items, err = p.list(ctx); err != nil {
		return nil, err
	}
	if left := strays(c, v, items, below); len(left) > 0 {
		return nil, fmt.Errorf("the provider still lists %d values of version %d that were lost and revoked, such as %s", len(left), v.Number, kind.Line(left[0], 64))
	}
	return items, nil
}

// Issue implements kind.Issuer.
func (Kind) Issue(ctx context.Context, c kind.Change) (kind.Issued, error) {
	o, ordered := readOrder(c.To.Value)
	if !ordered {
		return kind.Issued{}, fmt.Errorf("version %d has a value already", c.To.Number)
	}
	p, err := open(c)
	if err != nil {
		return kind.Issued{}, err
	}
	items, err := p.sweep(ctx, c, c.To, o.attempt)
	if err == nil {
		err = p.foreign(c, items)
	}
	if err != nil {
		return kind.Issued{}, err
	}
	id, value, err := p.create(ctx, attemptLabel(o.label, o.attempt))
	if err != nil {
		return kind.Issued{}, err
	}
	if number, used := known(c, c.To)[id]; used {
		return kind.Issued{}, fmt.Errorf("the provider calls the new value as it calls version %d, so that neither could be revoked by itself; is %s right?", number, fieldCreateID)
	}
	for _, v := range append(slices.Clone(c.Key.Versions), c.From) {
		if v.Value.Equal(value) {
			return kind.Issued{}, fmt.Errorf("the provider returns the value of version %d as a new one", v.Number)
		}
	}
	return kind.Issued{Value: value, Handle: handle{id, o.label}.text()}, nil
}

// Stage implements kind.Server: the value was made before. What earlier attempts have made, and what was made late, is revoked.
func (Kind) Stage(ctx context.Context, c kind.Change) error {
	if _, ordered := readOrder(c.To.Value); ordered {
		return fmt.Errorf("the provider has not made version %d yet", c.To.Number)
	}
	p, err := open(c)
	if err != nil {
		return err
	}
	items, err := p.sweep(ctx, c, c.To, 0)
	if err != nil {
		return err
	}
	if h := handleOf(c, c.To); h.label != "" && !slices.ContainsFunc(items, func(i item) bool { return i.id == h.id }) {
		return fmt.Errorf("the provider does not list version %d, which it has made as %s; it may do so later, or %s is wrong", c.To.Number, kind.Line(h.id, 64), fieldListID)
	}
	return p.foreign(c, items)
}

// Verify implements kind.Verifier.
func (Kind) Verify(ctx context.Context, c kind.Change) error {
	if _, ordered := readOrder(c.To.Value); ordered {
		return fmt.Errorf("the provider has not made version %d yet", c.To.Number)
	}
	p, err := open(c)
	if err != nil {
		return err
	}
	return p.try(ctx, c.To.Value, handleOf(c, c.To).id)
}

// InUse implements kind.Server. Nobody asks: see Sessionless.
func (Kind) InUse(context.Context, kind.Change) (int, string, error) { return 0, "", nil }

// Retire implements kind.Server: the old value is revoked, and refused then. What was made late for the new version is revoked, too.
func (Kind) Retire(ctx context.Context, c kind.Change) error {
	if err := end(ctx, c, c.From); err != nil {
		return err
	}
	p, err := open(c)
	if err == nil {
		_, err = p.sweep(ctx, c, c.To, 0)
	}
	return err
}

// Unstage implements kind.Server: so is the new one, if it was made, and all that was lost of it.
func (Kind) Unstage(ctx context.Context, c kind.Change) error { return end(ctx, c, c.To) }

// end revokes a version, with what attempts at it have made, and sees that the provider neither lists nor takes it any more. Values
// that nobody can tell apart do not hold it up, since the key cannot be changed meanwhile: see Inspect.
func end(ctx context.Context, c kind.Change, v key.Version) error {
	p, err := open(c)
	if err != nil {
		return err
	}
	h := handleOf(c, v)
	if number, used := known(c, v)[h.id]; used && h.id != "" {
		return fmt.Errorf("versions %d and %d have the same id at the provider, so that neither can be revoked by itself; is %s right?", v.Number, number, optionImportedID)
	}
	if h.id != "" {
		if err := p.revoke(ctx, h.id); err != nil {
			return err
		}
	}
	items, err := p.sweep(ctx, c, v, 0)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(items, func(i item) bool { return i.id == h.id }) {
		return fmt.Errorf("the provider still lists version %d, which was revoked as %s", v.Number, kind.Line(h.id, 64))
	}
	if _, ordered := readOrder(v.Value); ordered || v.Value.Empty() {
		return nil
	}
	return p.ended(ctx, v, h)
}

// ended returns an error while the provider takes a value that it was to revoke.
func (p *provider) ended(ctx context.Context, v key.Version, h handle) error {
	if h.id == "" && p.verifyFormat.has(placeBasic) {
		return fmt.Errorf("version %d was imported, and its id at the provider is not known; set %s of the key", v.Number, optionImportedID)
	}
	switch err := p.try(ctx, v.Value, h.id); {
	case errors.Is(err, errRefused):
		return nil
	case err != nil:
		return err
	case h.id == "":
		return fmt.Errorf("version %d was imported, and its id at the provider is not known: revoke it there by hand, and this continues by itself", v.Number)
	}
	return fmt.Errorf("the provider takes version %d still, which was revoked as %s", v.Number, kind.Line(h.id, 64))
}

// Preflight implements kind.Preflighter.
func (Kind) Preflight(ctx context.Context, c kind.Change) (blockers, notes []string, err error) {
	p, err := open(c)
	if err != nil {
		return nil, nil, err
	}
	items, err := p.list(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := p.foreign(c, items); err != nil {
		blockers = append(blockers, err.Error())
	}
	if h := handleOf(c, c.From); c.From.Number > 0 && h.id == "" {
		notes = append(notes, fmt.Sprintf("version %d was imported, and its id at the provider is not known: the rotation will wait at its end until somebody has revoked it there; to have that done, set %s of the key", c.From.Number, optionImportedID))
	}
	return blockers, append(notes, p.lost(c, items)...), nil
}

// lost names values with a name of the key that no version of it is, such as one that was made late for a version which was reverted.
// They may be those of a key of the same name that was deleted, so that nothing revokes them.
func (p *provider) lost(c kind.Change, items []item) []string {
	ids := known(c, key.Version{})
	var unknown []string
	for _, i := range items {
		_, ok := ids[i.id]
		mine := slices.ContainsFunc(append(slices.Clone(c.Key.Versions), c.To), func(v key.Version) bool {
			h := handleOf(c, v)
			return v.State.Live() && h.label != "" && attemptOf(h.label, i.label) > 0
		})
		if strings.HasPrefix(i.label, keyLabel(c.Key)) && !ok && !mine {
			unknown = append(unknown, kind.Line(i.id, 64))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	return []string{fmt.Sprintf("the provider lists %d values whose names begin with %s and that no version of the key is: %s; revoke them there if nobody uses them", len(unknown), keyLabel(c.Key), strings.Join(unknown[:min(len(unknown), 5)], ", "))}
}

// Inspect implements kind.Inspector: whether the provider still has the current version, and values that nobody knows.
func (Kind) Inspect(ctx context.Context, c kind.Change) (f kind.Finding, err error) {
	p, err := open(c)
	if err != nil {
		return f, err
	}
	items, err := p.list(ctx)
	if err != nil {
		return f, err
	}
	if h := handleOf(c, c.To); h.id != "" && !slices.ContainsFunc(items, func(i item) bool { return i.id == h.id }) {
		f.Problems = append(f.Problems, kind.Problem{
			Text:   fmt.Sprintf("the provider does not list %s any more, which is version %d of key %s", kind.Line(h.id, 64), c.To.Number, c.Key.Name),
			Remedy: "vault write hyvve/rotate key=" + c.Key.Name, Rotates: true,
		})
	}
	if err := p.foreign(c, items); err != nil {
		f.Problems = append(f.Problems, kind.Problem{Text: err.Error()})
	}
	f.Notes = p.lost(c, items)
	return f, nil
}

// CheckConnection implements kind.Connector: it lists the values there are, where that needs nothing of a key.
func (Kind) CheckConnection(ctx context.Context, c kind.Connection) ([]string, error) {
	p, err := open(kind.Change{Connection: c})
	if err != nil {
		return nil, err
	}
	if strings.Contains(p.listPath.text, "{{") {
		return []string{fmt.Sprintf("%s needs a key's parameters, so that the connection was not tried; a plan of a key's rotation (dry_run=true) tries it", fieldListPath)}, nil
	}
	items, err := p.list(ctx)
	if err != nil {
		return nil, err
	}
	if len(p.listLabel) == 0 {
		return []string{fmt.Sprintf("the provider does not name values (%s is empty): each key needs a user of its own there, and a value whose answer was lost has to be revoked by hand (%d values are listed now)", fieldListLabel, len(items))}, nil
	}
	return nil, nil
}
