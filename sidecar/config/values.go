// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
)

// Set sets the option of the block that a pointer points to, from the text of a flag or of an annotation. Entries of lists and maps
// have commas between them, except files, whose names may contain commas. The checks of the block look at the rest.
func (o Option) Set(block any, text string) (err error) {
	switch into := o.value(block).Addr().Interface().(type) {
	case *string:
		*into = text
		return o.check(text)
	case *bool:
		*into = text == "true"
		return usage.OneOf(text, []string{"true", "false"})
	case *int:
		if *into, err = strconv.Atoi(text); err != nil || *into < 1 {
			return errors.New("write a number, 1 or more")
		}
	case **float64:
		number, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return errors.New("write a number, such as 5")
		}
		*into = &number
	case *[]string:
		if *into = []string{text}; o.Type == "files" {
			return nil
		}
		*into = strings.Split(text, ",")
		for _, entry := range *into {
			if err := o.check(entry); err != nil {
				return err
			}
		}
	case *map[string]string:
		*into = map[string]string{}
		for entry := range strings.SplitSeq(text, ",") {
			name, value, ok := strings.Cut(entry, "=")
			if !ok || name == "" {
				return fmt.Errorf("%q is not NAME=VALUE", entry)
			}
			(*into)[name] = value
		}
	default:
		return fmt.Errorf("%s is set in the configuration file only", o.Name)
	}
	return nil
}

// check refuses a text that the option never has, whatever the other options say.
func (o Option) check(text string) error {
	switch {
	case o.Values != "":
		return usage.OneOf(text, strings.Split(o.Values, ", "))
	case strings.HasPrefix(o.Type, "environment name"):
		return key.ValidateEnv(text)
	}
	return nil
}

// Kind returns the type of the option in words, for the reference pages.
func (o Option) Kind() string {
	switch t := o.field.Type; {
	case o.Values != "":
		return "`" + strings.ReplaceAll(o.Values, ", ", "`, `") + "`"
	case o.IsBool():
		return "`true` or `false`"
	case t.Kind() == reflect.Slice && o.Type != "":
		return "list of " + o.Type
	case t.Kind() == reflect.Map && o.Type != "":
		return "map of " + o.Type
	case o.Type != "":
		return o.Type
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return "list of texts"
	case t.Kind() == reflect.Slice:
		return "list of numbers"
	case t.Kind() == reflect.Map:
		return "map of texts"
	case t.Kind() == reflect.String:
		return "text"
	}
	return "number"
}

var literal = regexp.MustCompile(`^([0-9a-z]+|[A-Z][A-Za-z_]+)$`)

// Without returns what holds without the option, for the reference pages.
func (o Option) Without() string {
	switch {
	case o.Required == "yes":
		return "required"
	case o.Required != "":
		return "required " + o.Required
	case o.IsBool():
		return "`false`"
	case o.Default == "":
		return "none"
	case o.Default != "all" && literal.MatchString(o.Default):
		return "`" + o.Default + "`"
	}
	return o.Default
}
