// SPDX-License-Identifier: Apache-2.0

// Package http is the kind of keys whose values a provider makes and revokes by an API: tokens of a code host, access keys of a
// cloud. A connection describes the API with templates of requests; the provider's administrative token is its password.
package http

import (
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Kind has a provider make values, and revoke them.
type Kind struct{}

var (
	_ kind.Kind          = Kind{}
	_ kind.Generator     = Kind{}
	_ kind.Renderer      = Kind{}
	_ kind.Issuer        = Kind{}
	_ kind.Sessionless   = Kind{}
	_ kind.ChangeChecker = Kind{}
	_ kind.Preflighter   = Kind{}
	_ kind.Inspector     = Kind{}
	_ kind.Connector     = Kind{}
	_ kind.LoginNamer    = Kind{}
	_ kind.Addresser     = Kind{}
)

// Name implements kind.Kind.
func (Kind) Name() string { return "http" }

// Summary implements kind.Kind.
func (Kind) Summary() string { return "a value that a provider makes, verifies and revokes by an API" }

// Sessionless implements kind.Sessionless: providers count no sessions.
func (Kind) Sessionless() {}

const (
	optionParameters = "parameters"
	optionIDEnv      = "id_env"
	optionImportedID = "imported_id"
	optionOthers     = "others"
)

// Fields implements kind.Kind.
func (Kind) Fields() []kind.Field {
	return []kind.Field{
		{Name: kind.OptionConnection, Description: "The connection that describes the provider's API."},
		{Name: optionParameters, Description: "What the connection's templates have as {{parameter.NAME}}: NAME=VALUE with commas between, such as user=deploy,scope=read. Do not put a secret there."},
		{Name: optionIDEnv, Description: "The environment name under which workloads get the provider's id of the value, such as AWS_ACCESS_KEY_ID beside AWS_SECRET_ACCESS_KEY. Empty: they do not get it."},
		{Name: optionImportedID, Description: "The provider's id of a value that was imported, by which it is revoked at the end of the first rotation. Without it, that rotation waits until somebody has revoked the value at the provider."},
		{Name: optionOthers, Description: "Ids of values, with commas between, that the provider lists beside those of this key, and that are to stay. Only for a connection without list_label."},
	}
}

// Normalize implements kind.Kind.
func (k Kind) Normalize(options kind.Options) (kind.Options, error) {
	full, err := kind.Defaults(k.Fields(), options)
	if err != nil {
		return nil, err
	}
	if full[kind.OptionConnection] == "" {
		return nil, errors.New("connection is empty; name one of kind http that hyvve/connections lists")
	}
	if _, err := readParameters(full[optionParameters]); err != nil {
		return nil, err
	}
	if name := full[optionIDEnv]; name != "" {
		if err := key.ValidateEnv(name); err != nil {
			return nil, fmt.Errorf("%s %s is not an environment name; use upper-case letters, digits and '_', such as AWS_ACCESS_KEY_ID", optionIDEnv, kind.Quote(name))
		}
	}
	if id := full[optionImportedID]; id != "" && checkID(id) != nil {
		return nil, fmt.Errorf("%s %w", optionImportedID, checkID(id))
	}
	for _, id := range kind.SplitList(full[optionOthers]) {
		if err := checkID(id); err != nil {
			return nil, fmt.Errorf("%s %w", optionOthers, err)
		}
	}
	return full, nil
}

var parameterName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// readParameters reads NAME=VALUE with commas between. Errors quote no value.
func readParameters(text string) (map[string]string, error) {
	all := map[string]string{}
	for n, one := range strings.Split(text, ",") {
		name, value, ok := strings.Cut(one, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch _, twice := all[name]; {
		case strings.TrimSpace(text) == "":
			return all, nil
		case !ok || !parameterName.MatchString(name):
			return nil, fmt.Errorf("%s: number %d is not NAME=VALUE with a name of lower-case letters, digits and '_', such as user=deploy", optionParameters, n+1)
		case twice:
			return nil, fmt.Errorf("%s: %s is there twice; leave one out", optionParameters, name)
		case value == "" || value == "." || value == ".." || !printable(value):
			return nil, fmt.Errorf("%s: %s has no value that a request can carry; write a text without control characters", optionParameters, name)
		}
		all[name] = value
	}
	return all, nil
}

func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f })
}

// maxID is how long a provider's id of a value may be, in bytes.
const maxID = 256

// checkID refuses what a path could be read in another way with. The error does not quote it.
func checkID(id string) error {
	if id == "" || len(id) > maxID || id == "." || id == ".." || !printable(id) || strings.ContainsAny(id, " \u00a0") {
		return fmt.Errorf("is not the id of a value: it is empty, longer than %d bytes, or has white space or control characters", maxID)
	}
	return nil
}

// maxValue is how long a value may be, in bytes.
const maxValue = 16 << 10

// Check implements kind.Kind.
func (Kind) Check(_ kind.Options, value key.Value) ([]string, error) {
	text := value.Reveal()
	switch _, ordered := readOrder(value); {
	case ordered:
		return nil, nil
	case text == "":
		return nil, errors.New("value is empty")
	case len(text) > maxValue:
		return nil, fmt.Errorf("value has %d bytes; at most %d are taken", len(text), maxValue)
	case !printable(text):
		return nil, errors.New("value holds a line break or another control character, or is not valid UTF-8, so that no header carries it; was it read from a file with a trailing newline?")
	case strings.TrimSpace(text) != text:
		return nil, errors.New("value begins or ends with white space, which headers drop")
	}
	return nil, nil
}

// orderPrefix begins orders. It is not what a value of a provider begins with.
const orderPrefix = "hyvve-order:"

// order is what stands in the place of a value until the provider has made one.
type order struct {
	label   string // begins the labels of all attempts, and of nothing else
	attempt int    // 0: none yet
}

var orderForm = regexp.MustCompile(`^hyvve-order:(hyvve-[a-z0-9._-]{1,60})/([0-9]{1,6})$`)

func readOrder(v key.Value) (order, bool) {
	m := orderForm.FindStringSubmatch(v.Reveal())
	if m == nil {
		return order{}, false
	}
	n, err := strconv.Atoi(m[2])
	return order{m[1], n}, err == nil
}

func (o order) value() key.Value {
	return key.NewValue(fmt.Sprintf("%s%s/%d", orderPrefix, o.label, o.attempt))
}

// attemptLabel is what the provider is asked to call the value of an attempt.
func attemptLabel(label string, attempt int) string { return label + "-" + strconv.Itoa(attempt) }

// attemptOf returns the number of the attempt at this label that a label is of; 0: it is of none.
func attemptOf(label, of string) int {
	text, ok := strings.CutPrefix(of, label+"-")
	if n, err := strconv.Atoi(text); ok && err == nil && n > 0 && strconv.Itoa(n) == text {
		return n
	}
	return 0
}

const (
	nonceBytes = 10
	labelName  = 20 // bytes of the key's name that stand in a label
)

// Generate implements kind.Generator: an order. Its label is another one for each version, also of a key of the same name that is
// made after this one was deleted, so that nothing is taken for the key's that is not.
func (Kind) Generate(random io.Reader, k key.Key, _ key.Value) (key.Value, error) {
	nonce := make([]byte, nonceBytes)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return key.Value{}, fmt.Errorf("drawing random bytes: %w", err)
	}
	return order{label: keyLabel(k) + strings.ToLower(base32.StdEncoding.EncodeToString(nonce))}.value(), nil
}

// keyLabel begins the labels of all versions of a key. Providers allow short names only.
func keyLabel(k key.Key) string {
	return "hyvve-" + k.Mount + "-" + strings.Trim(k.Name[:min(len(k.Name), labelName)], "-._") + "-"
}

// Attempt implements kind.Issuer.
func (Kind) Attempt(v key.Value) (key.Value, bool) {
	o, ok := readOrder(v)
	if !ok {
		return key.Value{}, false
	}
	o.attempt++
	return o.value(), true
}

// CheckChange implements kind.ChangeChecker: but for a first one, values come from the provider.
func (Kind) CheckChange(c kind.Change) error {
	if _, ordered := readOrder(c.To.Value); !ordered && c.From.Number > 0 {
		return errors.New("value: the provider makes the values of this key; leave value out")
	}
	if _, ok := readHandle(c.Key.Options, c.From); c.Key.Options[optionIDEnv] != "" && c.From.Number > 0 && !ok {
		return fmt.Errorf("%s is set, and the id of version %d, which was imported, is not known; set %s to it", optionIDEnv, c.From.Number, optionImportedID)
	}
	return nil
}

// Names implements kind.Renderer.
func (Kind) Names(options kind.Options) []string {
	if name := options[optionIDEnv]; name != "" {
		return []string{name}
	}
	return nil
}

// Render implements kind.Renderer.
func (Kind) Render(options kind.Options, v key.Version) (map[string]key.Value, error) {
	name := options[optionIDEnv]
	if name == "" {
		return nil, nil
	}
	h, ok := readHandle(options, v)
	if !ok {
		return nil, fmt.Errorf("the provider's id of version %d, which was imported, is not known; set %s of the key", v.Number, optionImportedID)
	}
	return map[string]key.Value{name: key.NewValue(h.id)}, nil
}

// Login implements kind.LoginNamer: each value is a login of its own. The name tells values apart, and nothing else of them.
func (k Kind) Login(value key.Value) (string, error) {
	if o, ordered := readOrder(value); ordered {
		return o.label, nil
	}
	if _, err := k.Check(nil, value); err != nil {
		return "", err
	}
	return "value " + key.ShortHash(value.Reveal()), nil
}

// others are the ids that an operator has said are not the key's.
func others(options kind.Options) []string {
	all := kind.SplitList(options[optionOthers])
	slices.Sort(all)
	return all
}
