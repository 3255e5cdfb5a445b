// SPDX-License-Identifier: Apache-2.0

package http

import (
	"context"
	"errors"
	"fmt"
	nethttp "net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// What a list may have.
const (
	maxPages = 100
	maxItems = 10_000
)

// provider is an API with what its requests for one key hold.
type provider struct {
	api
	password key.Value
	values   map[string]string
	others   []string
	secrets  []string // that no id is: ids stand in errors
}

func open(c kind.Change) (*provider, error) {
	connection, err := Kind{}.NormalizeConnection(c.Connection)
	if err != nil {
		return nil, fmt.Errorf("connection %s: %w", c.Connection.Name, err)
	}
	p := &provider{password: connection.Secrets[kind.FieldPassword], others: others(c.Key.Options)}
	if p.api, err = readAPI(connection); err != nil {
		return nil, err
	}
	p.secrets = append(p.secrets, p.password.Reveal())
	for _, v := range append(slices.Clone(c.Key.Versions), c.From, c.To) {
		if _, ordered := readOrder(v.Value); !ordered && !v.Value.Empty() {
			p.secrets = append(p.secrets, v.Value.Reveal())
		}
	}
	p.values, err = values(c.Key)
	return p, err
}

// admin is a request with the administrative token.
func (p *provider) admin(method string, path, body template, values map[string]string) (r request, err error) {
	r = request{method: method, base: p.base, header: p.authHeader}
	if r.path, err = path.path(values); err != nil {
		return r, err
	}
	if body.text != "" {
		if r.body, r.form, err = body.body(values); err != nil {
			return r, err
		}
	}
	r.secret, err = p.authFormat.fill(map[string]string{placePassword: p.password.Reveal(), placeBasic: basic(p.username, p.password.Reveal())}, asIs)
	return r, err
}

// ask sends a request with the administrative token.
func (p *provider) ask(ctx context.Context, r request) (answer, error) {
	said, err := p.send(ctx, r)
	switch {
	case err != nil:
		return said, err
	case said.refused():
		return said, fmt.Errorf("%s: the provider refuses the connection's password, or what it may do is not enough (%s); write another one with: vault write hyvve/connections/NAME password=-", r.where(), said.said())
	case said.status >= 300 && said.status < 400:
		return said, fmt.Errorf("%s: %s; redirects are not followed with a secret: set %s to where it leads", r.where(), said.said(), fieldAPI)
	}
	return said, nil
}

// item is a value that the provider lists.
type item struct{ id, label string }

// list returns the values that the provider has, all pages of them. What cannot be read as a list is an error: that a value is
// not there must not be taken from an answer that says nothing.
func (p *provider) list(ctx context.Context) ([]item, error) {
	r, err := p.admin(nethttp.MethodGet, p.listPath, template{}, p.values)
	if err != nil {
		return nil, err
	}
	var all []item
	first := r.path
	seen := map[string]bool{}
	for range maxPages {
		if seen[r.path] {
			return nil, fmt.Errorf("%s: a page of the list leads to one that was read already", r.where())
		}
		seen[r.path] = true
		said, err := p.ask(ctx, r)
		if err != nil {
			return nil, err
		}
		if !said.ok() {
			return nil, fmt.Errorf("%s: %s; the values there are cannot be listed", r.where(), said.said())
		}
		v, err := decode(said.body)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.where(), err)
		}
		items, err := p.items(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.where(), err)
		}
		if all = append(all, items...); len(all) > maxItems {
			return nil, fmt.Errorf("%s: the list has more than %d values; narrow it by %s", r.where(), maxItems, fieldListPath)
		}
		next, err := p.next(first, v, said.links)
		if err != nil || next == "" {
			return all, err
		}
		r.path = next
	}
	return nil, fmt.Errorf("%s: the list has more than %d pages; narrow it by %s", r.where(), maxPages, fieldListPath)
}

// checkID refuses an id that is none, and one that would tell a secret. The error does not quote it.
func (p *provider) checkID(id string) error {
	if slices.ContainsFunc(p.secrets, func(secret string) bool { return strings.Contains(id, secret) }) {
		return errors.New("is a secret, and not the id of a value; lead to the id, by which the provider revokes the value")
	}
	return checkID(id)
}

func (p *provider) items(v any) (all []item, err error) {
	found, _ := p.listItems.find(v)
	entries, ok := found.([]any)
	if !ok {
		return nil, fmt.Errorf("the answer has no list where %s says (%q)", fieldListItems, p.listItems)
	}
	for n, entry := range entries {
		i := item{id: p.listID.text(entry)}
		if err := p.checkID(i.id); err != nil {
			return nil, fmt.Errorf("entry %d of the list: what %s (%q) leads to %w", n+1, fieldListID, p.listID, err)
		}
		if len(p.listLabel) > 0 {
			i.label = p.listLabel.text(entry)
		}
		all = append(all, i)
	}
	return all, nil
}

// next returns the path of the next page of a list, empty if there is none: by its cursor, or as a Link header says (RFC 8288).
func (p *provider) next(first string, v any, links []string) (string, error) {
	if cursor := p.listNext.text(v); len(p.listNext) > 0 && cursor != "" {
		mark := "?"
		if strings.Contains(first, "?") {
			mark = "&"
		}
		return first + mark + url.QueryEscape(p.listCursor) + "=" + url.QueryEscape(cursor), nil
	}
	for _, link := range strings.Split(strings.Join(links, ","), ",") {
		target, parameters, _ := strings.Cut(strings.TrimSpace(link), ">")
		if !strings.HasPrefix(target, "<") || !slices.ContainsFunc(strings.Split(parameters, ";"), isNext) {
			continue
		}
		base := *p.base
		base.Path += "/"
		u, err := base.Parse(target[1:])
		prefix := p.base.EscapedPath() + "/"
		if err != nil || u.Scheme != p.base.Scheme || u.Host != p.base.Host || u.User != nil || !strings.HasPrefix(u.EscapedPath(), prefix) || strings.Contains(u.EscapedPath(), "..") {
			return "", fmt.Errorf("the list's next page is not below %s; nothing is sent there", fieldAPI)
		}
		path := "/" + strings.TrimPrefix(u.EscapedPath(), prefix)
		if u.RawQuery != "" {
			path += "?" + u.RawQuery
		}
		return path, nil
	}
	return "", nil
}

func isNext(parameter string) bool {
	name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
	return strings.EqualFold(name, "rel") && strings.EqualFold(strings.Trim(value, `"`), "next")
}

// create has the provider make a value.
func (p *provider) create(ctx context.Context, label string) (id string, value key.Value, err error) {
	r, err := p.admin(p.createMethod, p.createPath, p.createBody, with(p.values, placeLabel, label))
	if err != nil {
		return "", key.Value{}, err
	}
	said, err := p.ask(ctx, r)
	if err != nil {
		return "", key.Value{}, err
	}
	if !said.ok() {
		return "", key.Value{}, fmt.Errorf("%s: %s; a value that was made all the same is revoked at the next attempt", r.where(), said.said())
	}
	v, err := decode(said.body)
	if err != nil {
		return "", key.Value{}, fmt.Errorf("%s: %w", r.where(), err)
	}
	id, value = p.createID.text(v), key.NewValue(p.createValue.text(v))
	if err := p.checkID(id); err != nil {
		return "", key.Value{}, fmt.Errorf("%s: what %s (%q) leads to %w", r.where(), fieldCreateID, p.createID, err)
	}
	if _, err := (Kind{}).Check(nil, value); err != nil {
		return "", key.Value{}, fmt.Errorf("%s: where %s says (%q): %w", r.where(), fieldCreateValue, p.createValue, err)
	}
	if _, ordered := readOrder(value); ordered || strings.Contains(id, value.Reveal()) { // ids stand in errors
		return "", key.Value{}, fmt.Errorf("%s: what %s (%q) leads to is not a value, or is its id", r.where(), fieldCreateValue, p.createValue)
	}
	return id, value, nil
}

// revoke has the provider revoke a value. One that is gone is revoked.
func (p *provider) revoke(ctx context.Context, id string) error {
	r, err := p.admin(p.revokeMethod, p.revokePath, p.revokeBody, with(p.values, placeID, id))
	if err != nil {
		return err
	}
	said, err := p.ask(ctx, r)
	if err != nil {
		return err
	}
	if !said.ok() && said.status != nethttp.StatusNotFound && said.status != nethttp.StatusGone {
		return fmt.Errorf("%s: %s; the value may still be valid", r.where(), said.said())
	}
	return nil
}

// errRefused is the error of a value that the provider does not take.
var errRefused = errors.New("the value is refused")

// try sees whether the provider takes a value: errRefused if it does not, and another error if the answer does not show it.
func (p *provider) try(ctx context.Context, value key.Value, id string) error {
	r := request{method: p.verifyMethod, base: p.verifyBase, header: p.verifyHeader}
	var err error
	if r.path, err = p.verifyPath.path(p.values); err != nil {
		return err
	}
	secrets := map[string]string{placeValue: value.Reveal()}
	if id != "" {
		secrets[placeBasic] = basic(id, value.Reveal())
	} else if p.verifyFormat.has(placeBasic) {
		return fmt.Errorf("%s needs the id of the value, which was imported; set %s of the key", fieldVerifyFormat, optionImportedID)
	}
	if r.secret, err = p.verifyFormat.fill(secrets, asIs); err != nil {
		return err
	}
	said, err := p.send(ctx, r)
	switch {
	case err != nil:
		return err
	case said.ok():
		return nil
	case said.refused():
		return fmt.Errorf("%s: %w (%s)", r.where(), errRefused, said.said())
	}
	return fmt.Errorf("%s: %s, which does not show whether the value is valid", r.where(), said.said())
}
