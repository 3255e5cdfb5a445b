// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// fieldOwners is the field of a connection that names the roles which keys may act as.
const fieldOwners = "allowed_owners"

// powers are the roles whose members act at the server's host with the rights of the server itself.
var powers = []string{"pg_execute_server_program", "pg_read_server_files", "pg_write_server_files"}

// safe returns an error if login roles must not act as the owner, because anybody with the application's URL would control the
// server. A privileged role that is no superuser is allowed if the connection names it.
func (o owner) safe(of known, c kind.Connection) error {
	const remedy = "make a role of the application's own, and name it in owner="
	allows, names := allowsOwner(c, o.name)
	switch {
	case of.Super:
		return faultf("the login roles would act as %s, which is a superuser; %s", o.name, remedy)
	case !allows:
		return faultf("the login roles would act as %s, which connection %s does not allow; add it to %s of hyvve/connections/%s, or name another role in owner=", o.name, c.Name, fieldOwners, c.Name)
	case of.Own:
		return faultf("the login roles would act as %s, the administrator of connection %s; %s", o.name, c.Name, remedy)
	}
	var has, mends []string
	for name, attribute := range map[string]bool{"CREATEROLE": of.Creates, "REPLICATION": of.Replicates, "BYPASSRLS": of.Bypasses} {
		if attribute {
			has, mends = append(has, name), append(mends, "NO"+name)
		}
	}
	slices.Sort(has)
	slices.Sort(mends)
	var ways []string
	if len(mends) > 0 {
		ways = append(ways, fmt.Sprintf("ALTER ROLE %s %s", of.Quoted, strings.Join(mends, " ")))
	}
	for _, role := range of.Powers {
		has = append(has, "membership in "+role)
		ways = append(ways, fmt.Sprintf("REVOKE %s FROM %s", quoteIfNeeded(role), of.Quoted))
	}
	if names || len(has) == 0 {
		return nil
	}
	return faultf("the login roles would act as %s, which has %s: that is more than an application's role should have. Take it away (%s), or allow the role in %s of hyvve/connections/%s",
		o.name, strings.Join(has, ", "), strings.Join(ways, "; "), fieldOwners, c.Name)
}

// checkOwners returns an error where allowed_owners holds no pattern.
func checkOwners(c kind.Connection) error {
	for n, pattern := range kind.SplitList(c.Options[fieldOwners]) {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("%s: number %d is neither a name nor a pattern; use * and ? for characters", fieldOwners, n+1)
		}
	}
	return nil
}

// allowsOwner reports whether a connection allows a role as an owner, and whether it names it rather than just any.
func allowsOwner(c kind.Connection, name string) (allows, names bool) {
	patterns := kind.SplitList(c.Options[fieldOwners])
	allows = len(patterns) == 0
	for _, pattern := range patterns {
		if matched, err := path.Match(pattern, name); err == nil && matched {
			allows, names = true, names || strings.Trim(pattern, "*?") != ""
		}
	}
	return allows, names
}

// quoteIfNeeded quotes an identifier that is not plain, for statements that people read.
func quoteIfNeeded(name string) string {
	if name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == "" {
		return name
	}
	return quote(name)
}
