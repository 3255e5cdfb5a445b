// SPDX-License-Identifier: Apache-2.0

package api

// ConfigRequest changes the mount-wide defaults; fields that are not given stay.
type ConfigRequest struct {
	LeaseTTL             *Seconds `json:"lease_ttl" doc:"How long the lease on a bundle lasts before it must be renewed. An instance that dies without a word counts as live for so long. Default 5m."`
	TakeoverAfter        *Seconds `json:"takeover_after" doc:"For how long nothing must have been heard of an instance before another login of the same entity may read under its name, as a pod that was killed and started again does. Not below 10s. Default 30s."`
	MaxInstancesPerLogin *int     `json:"max_instances_per_login" doc:"How many instances of a workload one login may have at a time; reads beyond that are refused. Default 100; 0: no bound but max_instances of the workload."`
	Soak                 *Seconds `json:"soak" doc:"How long a new version must work everywhere before the old one may be retired, for keys that set no soak of their own. Default 30s."`
	Observe              *Seconds `json:"observe" doc:"For how long servers (PostgreSQL, Redis) must have seen nobody use the old version before it is retired, for keys that set no observe of their own. The soak time counts, and each use starts it again. Logins that are rarer are not seen. Default 10s."`
	LookEvery            *Seconds `json:"look_every" doc:"How often each connection, and each key's current version, is checked at its server: status and connections/NAME show what is wrong. Default 5m; 0s: never."`
	Deadline             *Seconds `json:"deadline" doc:"How long a step of a rotation may take before it has failed, for keys that set none of their own. Default 0s: for as long as it takes."`
	OnFailure            *string  `json:"on_failure" doc:"What happens to a rotation that has failed (an unhealthy instance while it presents, or a deadline passed), for keys that do not say: pause or revert. Default pause."`
	Confirm              *string  `json:"confirm" doc:"Whether somebody must confirm a rotation before the old version is retired, for keys that do not say: manual or auto. Default auto."`
	ConfirmBy            *string  `json:"confirm_by" doc:"other: another user than the one who started a rotation must confirm it, for keys that do not say; it implies confirm=manual. Default any."`
	CompromisedDeadline  *Seconds `json:"compromised_deadline" doc:"How long a rotation with compromised=true waits at each step before it cuts. Default 1m."`
	Retain               *Seconds `json:"retain" doc:"For how long the value of a retired version is retained in quarantine, from which hyvve/keys/NAME/undelete brings it back, for keys that protect no rows and set no retain of their own. Holds for versions that are retired from then on. Default 24h; 0s: it is erased at once."`
	RetainRows           *Seconds `json:"retain_rows" doc:"The same for keys that protect rows. Make it longer than backups of the database are kept: rows that are restored need the key that they were written with. Default 30d; 0s: it is erased at once."`
	JournalMaxEntries    *int     `json:"journal_max_entries" doc:"How many journal entries are kept, and how many ended rotations. Not below min_entries of hyvve/journal/config. Default 100000; 0: all."`
	JournalMaxAge        *Seconds `json:"journal_max_age" doc:"For how long journal entries and ended rotations are kept. Not below min_age of hyvve/journal/config. Default 0s: forever."`
}

// Config is the response of config. Its fields are those of the request, none of which is nil.
type Config struct{ ConfigRequest }
