// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// commandFlags are those of agent, exec and validate. Most of them set an option, and come from the table of options.
type commandFlags struct {
	config, text, dotenv, bundle, logLevel string // the others

	exec   bool     // the command has the flags of the exec block
	always bool     // there is an exec block even if no flag sets something of it
	args   []string // command of the workload, after --

	flags *pflag.FlagSet
}

// define defines the flags of the command.
func (c *commandFlags) define(flags *pflag.FlagSet) {
	c.flags = flags
	flags.SetInterspersed(!c.exec)
	flags.StringVar(&c.config, "config", "", "configuration `FILE` in HCL")
	flags.StringVar(&c.text, "config-text", "", "configuration itself, as `TEXT` in HCL; for the environment, where there is no file")
	flags.StringVar(&c.dotenv, "dotenv", "", "`FILE` to render in dotenv format")
	flags.StringVar(&c.bundle, "bundle", "", "`FILE` to render as JSON with accept-lists and etag")
	flags.StringVar(&c.logLevel, "log-level", "", "`LEVEL`: debug, info, warn or error; info otherwise")
	for _, o := range c.options() {
		switch {
		case flags.Lookup(o.Flag) != nil: // it sets an option of another block, too
			continue
		case o.IsBool():
			flags.Bool(o.Flag, false, describe(o))
		default:
			flags.Var(&optionText{word: word(o)}, o.Flag, describe(o))
		}
		flags.Lookup(o.Flag).DefValue = o.Default
	}
}

// options returns those that flags of the command set.
func (c *commandFlags) options() (all []config.Option) {
	for _, b := range config.Blocks() {
		for _, o := range b.Options {
			switch {
			case o.Flag == "", b.Path == "exec" && !c.exec:
			case c.always && (b.Path == "watch" || o.Flag == "pid-file"): // it runs the workload, whose files nobody else renders
			default:
				all = append(all, o)
			}
		}
	}
	return all
}

// optionText is the value of a flag that sets an option, and the word for it in the help text.
type optionText struct{ text, word string }

func (t *optionText) String() string { return t.text }
func (t *optionText) Type() string   { return t.word }
func (t *optionText) Set(text string) error {
	if t.text != "" && t.text != text {
		return errors.New("it is given twice; an option of several values belongs into the configuration file")
	}
	t.text = text
	return nil
}

// word returns the word for the value of an option: FILE, DURATION or NAME.
func word(o config.Option) string {
	switch words := strings.Fields(o.Type); {
	case len(words) == 0:
		return "VALUE"
	case o.Type == "files": // the flag takes one
		return "FILE"
	default:
		return strings.ToUpper(words[len(words)-1])
	}
}

// describe returns the help text of the flag that sets an option.
func describe(o config.Option) string {
	text := []rune(strings.TrimSuffix(o.Doc, "."))
	if unicode.IsLower(text[1]) {
		text[0] = unicode.ToLower(text[0])
	}
	if o.Values != "" {
		return string(text) + ": " + o.Values
	}
	return string(text)
}

// file reads the file or text, if any, and sets the options that flags name. The other options of a block keep what the file says.
func (c *commandFlags) file() (config.File, error) {
	f, err := load(c.config, c.text)
	if err == nil {
		err = c.login(&f)
	}
	if err != nil {
		return f, err
	}
	for _, r := range []config.RenderBlock{{Format: "dotenv", Path: c.dotenv}, {Format: "bundle", Path: c.bundle}} {
		if r.Path != "" {
			f.Render = append(f.Render, r)
		}
	}
	c.execBlock(&f)
	var errs []error
	for _, o := range c.given() {
		if o.Block == "exec" && f.Exec == nil || o.Block == "reload" && o.Flag == "signal" && f.Exec != nil {
			continue
		}
		block, err := place(&f, o)
		if err == nil {
			if err = o.Set(block, c.value(o)); err != nil {
				err = fmt.Errorf("--%s: %w", o.Flag, err)
			}
		}
		errs = append(errs, err)
	}
	return f, errors.Join(errs...)
}

// given returns the options whose flags are set.
func (c *commandFlags) given() []config.Option {
	return slices.DeleteFunc(c.options(), func(o config.Option) bool { return !c.flags.Changed(o.Flag) || c.value(o) == "" })
}

func (c *commandFlags) value(o config.Option) string { return c.flags.Lookup(o.Flag).Value.String() }

// login replaces the auth block if flags say another way to log in.
func (c *commandFlags) login(f *config.File) error {
	var first config.Option
	for _, o := range c.given() {
		switch {
		case o.Block != loginBlock:
		case first.Flag == "":
			first = o
		case o.Of[0] != first.Of[0]:
			return fmt.Errorf("--%s and --%s are two ways to log in; give the flags of one", first.Flag, o.Flag)
		}
	}
	if first.Flag != "" && (f.Vault == nil || f.Vault.Auth.Method != first.Of[0]) {
		f.At("vault").(*config.VaultBlock).Auth = config.AuthBlock{Method: first.Of[0]} //nolint:forcetypeassert // it is that block
	}
	return nil
}

// execBlock makes the exec block where flags set something of it, and sets the command.
func (c *commandFlags) execBlock(f *config.File) {
	if !c.always && len(c.args) == 0 && !slices.ContainsFunc(c.given(), func(o config.Option) bool {
		return o.Block == "exec" && o.Flag != "signal" && c.value(o) != "false"
	}) {
		return
	}
	if f.Exec == nil {
		f.Exec = &config.ExecBlock{}
	}
	if len(c.args) > 0 {
		f.Exec.Command = c.args
	}
}

// place returns the block that has the option of a flag, and makes it if it is missing. A block in which the option has no place is
// an error.
func place(f *config.File, o config.Option) (any, error) {
	switch {
	case o.Block == "health":
		return healthBlock(f, o)
	case o.Block == "reload" && f.Reload == nil && o.Flag == "signal":
		return nil, errors.New("--signal needs --pid-file")
	case o.Block == "reload" && f.Reload == nil:
		f.Reload = &config.ReloadBlock{Method: o.Of[0]}
	case o.Block == "reload" && !slices.Contains(o.Of, f.Reload.Method):
		return nil, conflict(o, fmt.Sprintf("reload %q", f.Reload.Method))
	}
	block := f.At(o.Block)
	if o.Conflicts(block) {
		return nil, conflict(o, strings.Join(o.Excludes, " or ")+" there")
	}
	return block, nil
}

// healthBlock returns the one block of the check by HTTP.
func healthBlock(f *config.File, o config.Option) (found *config.HealthBlock, err error) {
	if len(f.Health) == 0 {
		f.Health = []config.HealthBlock{{Method: o.Of[0]}}
	}
	for n := range f.Health {
		switch b := &f.Health[n]; {
		case b.Method != o.Of[0]:
		case found != nil:
			return nil, conflict(o, "several of them")
		default:
			found = b
		}
	}
	if found == nil {
		return nil, conflict(o, fmt.Sprintf("health %q", f.Health[0].Method))
	}
	return found, nil
}

// conflict is the error of a flag whose option has no place beside what the file has.
func conflict(o config.Option, has string) error {
	block := o.Block
	if o.Of != nil {
		block += fmt.Sprintf(" %q", o.Of[0])
	}
	return fmt.Errorf("--%s sets %s of %s, and the configuration has %s; leave out the flag, or change the configuration", o.Flag, o.Name, block, has)
}

// loginBlock is the path of the block whose flags say how to log in; there is one way.
const loginBlock = "vault: auth"

// loginFlags returns the flags of that block.
func (c *commandFlags) loginFlags() (names []string) {
	for _, o := range c.options() {
		if o.Block == loginBlock {
			names = append(names, o.Flag)
		}
	}
	return names
}

// allFlags are those of any command that reads the environment: a variable for exec is no mistake beside agent.
func allFlags() *pflag.FlagSet {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	(&commandFlags{exec: true}).define(flags)
	return flags
}

// cut takes the workload's command, which stands after "--".
func (c *commandFlags) cut(cmd *cobra.Command, args []string) error {
	if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
		return usage.Wrong(fmt.Errorf("%q is not wanted; the workload's command, if that is one, stands after --", args[0]))
	}
	c.args = args
	return nil
}
