// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// ownServer makes worlds on a server of the test's own.
func ownServer(t *testing.T, o bed.PostgresOptions) *bed.Postgres {
	t.Helper()
	p, err := bed.ForTest(t).PostgresWith(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	on = p
	t.Cleanup(func() { on = nil })
	return p
}

// What is shown on Debian's 15 holds on 18, where membership and the rights of administrators work differently.
func TestPostgreSQL18(t *testing.T) {
	ownServer(t, bed.PostgresOptions{Major: 18})
	t.Run("adoption", TestAdoptionAndTurns)
	t.Run("unstage", TestUnstageLeavesNothing)
	t.Run("cut", TestCutEndsSessions)
	t.Run("names", TestOddNames)
	t.Run("administrator", TestAdministratorWithoutSuperuser)
	t.Run("others", TestStageLeavesOthersRoles)
	t.Run("retire", TestRetireLeavesOthersRoles)
	t.Run("earlier", TestRolesOfEarlierReleases)
	t.Run("ahead", TestServerAheadOfVault)
	t.Run("mounts", TestTwoMountsOnOneServer)
	t.Run("restored", TestRestoredVault)
	t.Run("restored server", TestRestoredServer)
	t.Run("roles made again", TestRolesMadeAgain)
	t.Run("undelete", TestUndelete)
	t.Run("revived", TestRevivedVersions)
	t.Run("imported role", TestImportedRoleHasGone)
	t.Run("acts as another", TestLoginsThatActAsAnother)
	t.Run("acts as a renamed owner", TestRenamedOwner)
	t.Run("barred", TestBarredLogins)
	t.Run("by hand", TestInspectWhatWasDoneByHand)
	t.Run("rights", TestPreflightNamesRights)
	t.Run("createrole", TestPreflightNamesCreateRole)
	t.Run("parameters", TestPreflightNamesParameters)
	t.Run("owner", TestPreflightOfTheOwner)
	t.Run("ownership", TestPreflightOfOwnership)
	t.Run("session_user", TestSessionUser)
	t.Run("sessions", TestSessionsSeeTheSame)
	t.Run("bouncer", TestIdleConnectionsOfPgBouncerAreNoUse)
	t.Run("resets", TestResetsOfPgBouncer)
	t.Run("former owner", TestFormerOwnerIsTakenAway)
	t.Run("advisory lock", TestAdvisoryLockOfTheApplication)
	t.Run("held role", TestSessionThatHoldsItsOwnRole)
	t.Run("traps", TestTraps)
	t.Run("settings", TestSettingsAreNoStatements)
	t.Run("owner", TestOwnerThatARoleGivesItself)
	t.Run("verify query", TestVerifyQuery)
	t.Run("short sessions", TestSampleSeesShortSessions)
	t.Run("late clients", TestLateClientsStandInTheLogOnly)
}

// An administrator that is no superuser can do it all with CREATEROLE, and on 16 and newer with the admin option on the
// owner; what it lacks is named.
func TestAdministratorWithoutSuperuser(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	password, err := w.postgres.NewRole(ctx, w.app+"_root")
	w.ok(err)
	w.exec("ALTER ROLE " + w.app + "_root CREATEROLE")
	url := w.postgres.URL("postgres", w.app+"_root", password)
	w.connection, err = w.kind.NormalizeConnection(kind.Connection{Name: "weak", Kind: "postgres", Options: kind.Options{login.FieldURL: url}})
	w.ok(err)
	notes, err := w.kind.CheckConnection(ctx, w.connection)
	w.ok(err)
	if !strings.Contains(strings.Join(notes, "; "), "pg_signal_backend") {
		t.Errorf("notes: %v", notes)
	}
	var modern bool
	w.ok(w.dial(w.admin).QueryRow(ctx, "SELECT current_setting('server_version_num')::int >= 160000").Scan(&modern))
	c := w.next(w.first)
	err = w.kind.Stage(ctx, c)
	if modern {
		if err == nil || !strings.Contains(err.Error(), "may not do this") {
			t.Errorf("without the admin option: %v", err)
		}
		w.exec("GRANT " + w.app + " TO " + w.app + "_root WITH ADMIN OPTION")
		err = w.kind.Stage(ctx, c)
	}
	w.ok(err)
	w.ok(w.kind.Verify(ctx, c))
	w.ok(w.kind.Unstage(ctx, c))
	w.ok(w.kind.Stage(ctx, c))
	w.ok(w.kind.Verify(ctx, c))
	w.ok(w.kind.Retire(ctx, c))
	if got := w.logins(); got != roleNames.Of(w.key)[0] {
		t.Errorf("%s can log in", got)
	}
}

// Nobody is sent to a replica before the role has arrived there, and sessions there count as use.
func TestReplica(t *testing.T) {
	ctx := t.Context()
	p := ownServer(t, bed.PostgresOptions{})
	replica, err := p.Replica(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "", nil)
	notes, err := w.kind.CheckConnection(ctx, w.connection)
	w.ok(err)
	if !strings.Contains(strings.Join(notes, "; "), "1 standbys stream from the server and replicas names 0") {
		t.Errorf("notes: %v", notes)
	}
	w.connection.Options[fieldReplicas] = strings.TrimPrefix(home(kind.Connection{Options: kind.Options{login.FieldURL: replica.AdminURL("postgres")}}).what, "the server ")
	w.ok(replica.AwaitReplay(ctx))
	if notes, err = w.kind.CheckConnection(ctx, w.connection); err != nil || len(notes) > 0 {
		t.Errorf("notes: %v, %v", notes, err)
	}
	c := w.next(w.first)
	w.ok(replica.PauseReplay(ctx))
	w.ok(w.kind.Stage(ctx, c))
	if err := w.kind.Verify(ctx, c); err == nil || !strings.Contains(err.Error(), "the replica") || !strings.Contains(err.Error(), "not arrived there yet") {
		t.Errorf("before the role has arrived: %v", err)
	}
	w.ok(replica.ResumeReplay(ctx))
	w.ok(replica.AwaitReplay(ctx))
	w.ok(w.kind.Verify(ctx, c))
	u, err := urls.Credential(w.first)
	w.ok(err)
	reader := w.dial(replica.URL(u.Path(), u.User, u.Password.Reveal()))
	n, what, err := w.kind.InUse(ctx, c)
	if err != nil || n != 1 || !strings.Contains(what, "the replica") {
		t.Errorf("a session at the replica: %d, %s, %v", n, what, err)
	}
	w.ok(reader.Close(ctx))
	w.unused(c)
	w.ok(w.kind.Retire(ctx, c))
	// The administrator's own URL must be the primary's.
	other := w.connection
	other.Revision = 77
	other.Options = kind.Options{login.FieldURL: replica.AdminURL("postgres")}
	other.Secrets = nil
	other, err = w.kind.NormalizeConnection(other)
	w.ok(err)
	if _, err := w.kind.CheckConnection(ctx, other); err == nil || !strings.Contains(err.Error(), "is a replica") {
		t.Errorf("a replica as the server: %v", err)
	}
}
