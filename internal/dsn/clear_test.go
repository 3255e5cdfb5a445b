// SPDX-License-Identifier: Apache-2.0

package dsn

import (
	"strings"
	"testing"
)

func TestInClear(t *testing.T) {
	for text, want := range map[string]string{
		"postgresql://u:secret@db/app":                                "the server is reached with sslmode prefer, the default",
		"postgresql://u:secret@db/app?sslmode=require":                "sslmode require",
		"postgres://u:secret@db/app?sslmode=verify-ca":                "sslmode verify-ca",
		"postgres://u:secret@127.0.0.1,db:5433/app":                   "the server is reached",
		"postgres://u:secret@db/app?sslrootcert=system":               "",
		"postgres://u:secret@db/app?ssl=true":                         "sslmode require",
		"postgres://u:secret@db/app?sslmode=verify-full":              "",
		"postgres://u:secret@db/app?sslmode=require&sslaccept=strict": "",
		"postgres://u:secret@127.0.0.1/app":                           "",
		"postgres://u:secret@[::1]:5432/app":                          "",
		"postgres://u:secret@localhost/app?sslmode=disable":           "",
		"redis://u:secret@cache:6379/0":                               "the server is reached without TLS",
		"rediss://u:secret@cache:6379/0":                              "",
		"redis://u:secret@127.0.0.1:6379":                             "",
		"redis://u:secret@[::1]:6379":                                 "",
		"a secret that is no URL":                                     "",
	} {
		got := InClear(text)
		if (want == "") != (got == "") || !strings.Contains(got, want) || strings.Contains(got, "secret") {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
