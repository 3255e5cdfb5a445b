// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"strings"
	"testing"
)

func TestPublicText(t *testing.T) {
	for text, want := range map[string]string{
		"":        "",
		"a:1 b:2": "a:1 b:2",
		"postgresql://root:pw@db:5432/postgres?sslmode=require":           "postgresql://root@db:5432/postgres?sslmode=require",
		"postgresql://root:p@w@db/x?password=pw&host=h":                   "postgresql://root@db/x?password=(hidden)&host=h",
		"DIRECT_URL=postgresql://u:pw@db/x OTHER=postgresql://db2/x":      "DIRECT_URL=postgresql://u@db/x OTHER=postgresql://db2/x",
		"postgresql://u:p/w@db/x":                                         "postgresql://(hidden)",
		"root:pw@db":                                                      "(hidden)",
		"postgresql://db/x?options=-cpw":                                  "postgresql://db/x?options=(hidden)",
		"redis://:pw@[::1]:6379/0":                                        "redis://@[::1]:6379/0",
		"postgresql://root:pw":                                            "postgresql://(hidden)",
		"postgresql://a:1,b,[::1]:2/x":                                    "postgresql://a:1,b,[::1]:2/x",
		"postgresql:///x?host=/run/pg":                                    "postgresql:///x?host=/run/pg",
		"postgresql://db/x#pw":                                            "postgresql://db/x",
		"-----BEGIN CERTIFICATE-----\npw\n-----END CERTIFICATE-----\n":    "PEM with SHA-256 ",
		"SELECT 1 FROM t WHERE a = 2":                                     "SELECT 1 FROM t WHERE a = 2",
		strings.Repeat("ä", 600):                                          strings.Repeat("ä", 500) + "… (1200 bytes with SHA-256 ",
		"postgresql://a@b?pw@x":                                           "postgresql://a@b?=(hidden)",
		"u:pw@x://db":                                                     "(hidden)",
		"postgresql://db/x?host=/run/pg&user=a&passfile=pw&sslpassword=p": "postgresql://db/x?host=/run/pg&user=a&passfile=(hidden)&sslpassword=(hidden)",
	} {
		got := PublicText("option", text)
		if !strings.HasPrefix(got, want) || want == "" && got != "" || strings.Contains(got, "pw") {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	if got := PublicText("url", "s3cret"); got != Hidden {
		t.Errorf("a URL that is none becomes %q", got)
	}
	if got := PublicText("verify_urls", "false"); got != "false" {
		t.Errorf("a flag becomes %q", got)
	}
}

// A kind says what a journal may keep of its options. What it does not describe is hidden.
func TestPublicOption(t *testing.T) {
	t.Parallel()
	fields := []Field{
		{Name: "open"},
		{Name: "password", Secret: true},
		{Name: "own", Public: func(text string) string { return strings.ReplaceAll(text, "S3CRET", Hidden) }},
	}
	for _, tt := range [][3]string{
		{"open", "a postgresql://u:S3CRET@db/x", "a postgresql://u@db/x"},
		{"own", "a@b S3CRET", "a@b (hidden)"},
		{"own", "-----BEGIN PRIVATE KEY-----\nS4CRET", "PEM with SHA-256 "},
		{"own", strings.Repeat("a", maxPublic+1), strings.Repeat("a", maxPublic) + "… (1001 bytes with SHA-256 "},
		{"password", "S3CRET", Hidden},
		{"another", "S3CRET", Hidden},
		{"another", "", ""},
	} {
		if got := PublicOption(fields, tt[0], tt[1]); !strings.HasPrefix(got, tt[2]) || (got == "") != (tt[2] == "") || strings.Contains(got, "S4CRET") {
			t.Errorf("%s=%s becomes %q, want %q", tt[0], tt[1], got, tt[2])
		}
	}
}

func FuzzPublicText(f *testing.F) {
	f.Add("postgresql://u:", "@db/x?password=")
	f.Fuzz(func(t *testing.T, before, after string) {
		if len(PublicText("url", before+"S3CRET"+after)) > 4*maxPublic {
			t.Error("too long")
		}
	})
}
