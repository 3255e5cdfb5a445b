// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"fmt"
	"testing"
	"time"
)

// The cluster continues without its leader, which comes back as a follower; and a leader that steps down is followed by
// another one. The client of the cluster notices neither.
func TestClusterOutlivesItsLeader(t *testing.T) {
	b := ForTest(t)
	c, err := b.Cluster(t.Context(), VaultOptions{Audit: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client.Logical().Write(Mount+"/presets/hyvve", map[string]any{"generate": true}); err != nil {
		t.Fatal(err)
	}
	killed, err := c.KillLeader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	leader, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s follows %s after %s", leader.Addr, killed.Addr, time.Since(begun).Round(time.Millisecond))
	if err := killed.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after, err := c.Leader(t.Context()); err != nil || after == killed {
		t.Errorf("the node that was killed leads again at once (%v)", err)
	}
	if before, after, err := c.StepDown(t.Context()); err != nil || before == after {
		t.Errorf("stepping down: %v", err)
	}
	secret, err := c.Client.Logical().Read(Mount + "/keys/jwt-secret")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(secret.Data["current_version"]); got != "1" {
		t.Errorf("current_version is %s, want 1", got)
	}
}
