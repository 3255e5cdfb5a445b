// SPDX-License-Identifier: Apache-2.0

package key

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const maxName = 128

// All stands for all keys where a rotation names its keys. Only keys of earlier releases may have it as their name.
const All = "all"

var (
	nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)
	envForm  = regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`)

	dnsForm      = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	instanceForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$`)
)

// ValidateName checks the name of a key, workload or connection; what is the word for it in the message.
func ValidateName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s name is empty", what)
	case len(name) > maxName:
		return fmt.Errorf("%s name is %d characters long; at most %d are allowed", what, len(name), maxName)
	case strings.Contains(name, "/"):
		return fmt.Errorf("%s name %q contains a slash; use lower-case letters, digits, '-', '_' and '.', such as %q",
			what, name, strings.ReplaceAll(strings.ToLower(strings.Trim(name, "/")), "/", "-"))
	case !nameForm.MatchString(name):
		return fmt.Errorf("%s name %q is not allowed; use lower-case letters, digits, '-', '_' and '.', beginning and ending with a letter or digit", what, name)
	}
	return nil
}

// ValidateEnv checks the environment name of a key.
func ValidateEnv(env string) error {
	if !envForm.MatchString(env) {
		return fmt.Errorf("env %q is not an environment name; use upper-case letters, digits and '_', such as AGENT_SERVICE_TOKEN", env)
	}
	return nil
}

// ValidateInstance checks the name of an instance of a workload.
func ValidateInstance(id string) error {
	if !instanceForm.MatchString(id) {
		return fmt.Errorf("instance %q is not allowed; use letters, digits, '-', '_' and '.', at most 128, beginning and ending with a letter or digit, such as a pod's name", id)
	}
	return nil
}

// ValidateDNSName checks the name of a pod or a node of Kubernetes.
func ValidateDNSName(name string) error {
	if !dnsForm.MatchString(name) {
		return fmt.Errorf("%q is no name that Kubernetes gives; use lower-case letters, digits, '-' and '.', at most 253", name)
	}
	return nil
}

// EnvFor is the environment name that a key has where none is given: its name in upper case.
func EnvFor(name string) string {
	return strings.NewReplacer("-", "_", ".", "_").Replace(strings.ToUpper(name))
}

// group is a number of environment names that change how processes run, with what they change.
type group struct {
	does     string   // completes "the name …"
	names    []string // exact
	prefixes []string // of names, all of which are reserved
	endings  []string // of names, all of which are reserved
	families []string // prefixes like these, but names below them that end like a credential's are free
}

// credentials end the names of secrets that programs read and that decide nothing else, such as GIT_TOKEN. No name of a
// loader, a shell or an interpreter that runs something ends so.
var credentials = []string{"_TOKEN", "_PASSWORD", "_PASSWD", "_SECRET", "_PASSPHRASE", "_KEY"}

// reserved are the names that a key may not have. A user who chooses the value of one of these runs code in the process that
// reads it, or leads its traffic elsewhere. The lists follow ld.so(8), dyld(1), bash(1), dash(1), zsh(1), the reference
// pages of the interpreters, git(1), ssh(1), curl(1), libpq, and the tables initial_badenv_table and
// initial_checkenv_table of sudo 1.9 (plugins/sudoers/env.c).
var reserved = []group{
	{
		does:     "is the sidecar's or Vault's own",
		prefixes: []string{"VAULT_", "HYVVE_", "BAO_"},
	},
	{
		does: "makes the loader of programs run other code, or the C library read other files",
		names: []string{
			"GLIBC_TUNABLES", "GCONV_PATH", "GETCONF_DIR", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "NLSPATH", "NIS_PATH", "NIS_DEFAULTS", "NIS_GROUP",
			"RES_OPTIONS", "RESOLV_HOST_CONF", "RESOLV_ADD_TRIM_DOMAINS", "RESOLV_MULTI", "RESOLV_SPOOF_CHECK", "RESOLV_OVERRIDE_TRIM_DOMAINS",
			"MALLOC_TRACE", "MALLOC_CHECK_", "MALLOC_PERTURB_", "MALLOC_CONF", "MUSL_LOCPATH", "SHLIB_PATH", "LIBPATH", "LDR_PRELOAD", "LDR_PRELOAD64", "LDR_CNTRL",
			"AUTHSTATE", "PATH_LOCALE", "DATEMSK", "TZDIR", "TZ", "LANG", "LANGUAGE", "LINGUAS", "CHARSET", "TERM", "TERMINFO", "TERMINFO_DIRS", "TERMPATH", "TERMCAP",
			"KRB5_CONFIG", "KRB5_CONFIG_DIR", "KRB5_KTNAME", "KRB5_CLIENT_KTNAME", "KRB5_TRACE", "KRB5CCNAME", "KRBCONFDIR", "KRBTKFILE", "KRB_CONF", "USR_ACE", "DLC_ACE", "VAR_ACE",
			"ODBCINI", "ODBCINSTINI", "ODBCSYSINI", "LDAPCONF", "LDAPRC", "SASL_PATH", "SASL_CONF_PATH", "PKCS11_MODULE_PATH", "P11_KIT_MODULE_PATH",
			"GTK_MODULES", "GTK_PATH", "GIO_EXTRA_MODULES", "GIO_MODULE_DIR", "QT_PLUGIN_PATH", "MAGICK_CONFIGURE_PATH", "MAGICK_CODER_MODULE_PATH", "GST_PLUGIN_PATH",
		},
		prefixes: []string{"LD_", "_RLD", "DYLD_", "LC_"},
	},
	{
		does: "changes what a shell runs",
		names: []string{
			"BASH_ENV", "BASHOPTS", "BASH_LOADABLES_PATH", "BASH_XTRACEFD", "ENV", "IFS", "PS0", "PS1", "PS2", "PS3", "PS4", "SHELLOPTS", "POSIXLY_CORRECT",
			"PROMPT_COMMAND", "PROMPT_DIRTRIM", "CDPATH", "GLOBIGNORE", "EXECIGNORE", "FIGNORE", "HISTFILE", "INPUTRC", "JAVA_BINDIR", "FPATH", "ZDOTDIR", "NULLCMD", "READNULLCMD",
			"COMSPEC", "PATHEXT", "MAIL", "MAILPATH", "MAILCHECK", "OPTARG", "OPTIND", "PPID", "UID", "EUID", "RANDOM", "SECONDS", "LINENO",
		},
		prefixes: []string{"BASH_FUNC_"},
	},
	{
		does: "decides which programs are found, or where a process keeps its files",
		names: []string{
			"PATH", "HOME", "SHELL", "USER", "USERNAME", "LOGNAME", "PWD", "OLDPWD", "HOSTNAME", "TMPDIR", "TMP", "TEMP", "TEMPDIR", "TMPPREFIX",
			"USERPROFILE", "HOMEDRIVE", "HOMEPATH", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA", "SYSTEMROOT", "WINDIR", "DISPLAY", "XAUTHORITY", "XAPPLRESDIR", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID",
		},
		prefixes: []string{"XDG_", "DBUS_", "SUDO_"},
	},
	{
		does: "makes an interpreter or a runtime load other code",
		names: []string{
			"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "JDK_JAVAC_OPTIONS", "JAVA_OPTS", "JAVA_HOME", "JRE_HOME", "CLASSPATH", "JAVA_OPTIONS", "JVM_OPTS", "JAVA_ARGS",
			"CATALINA_OPTS", "GRADLE_OPTS", "MAVEN_OPTS", "ANT_OPTS", "SBT_OPTS", "KAFKA_OPTS", "LEIN_JVM_OPTS", "M2_HOME", "MAVEN_ARGS", "MAVEN_CONFIG",
			"PHPRC", "PERLLIB", "PERLIO", "PERLIO_DEBUG", "PERL_UNICODE", "PERL_MM_OPT", "PERL_MB_OPT", "PERL_SIGNALS", "PERL_ENCODING",
			"RAILS_ENV", "RACK_ENV", "BUNDLE_GEMFILE", "BUNDLE_PATH", "GEM_HOME", "GEM_PATH", "IRBRC", "MANPATH", "PAPERSIZE",
			"TCLLIBPATH", "TCL_LIBRARY", "TK_LIBRARY", "OCAMLRUNPARAM", "CAMLRUNPARAM", "OCAMLLIB", "OCAMLPATH", "CAML_LD_LIBRARY_PATH", "CAMLLIB", "GHCRTS", "GHC_ENVIRONMENT", "GHC_PACKAGE_PATH",
			"ERLANG_HOME", "ERL_CRASH_DUMP", "ELIXIR_ERL_OPTIONS", "ROOTDIR", "BINDIR", "JULIA_LOAD_PATH", "SWIFT_BACKTRACE", "WASMTIME_HOME",
			"GODEBUG", "GOTRACEBACK", "GOFLAGS", "GOROOT", "GOPATH", "GOPROXY", "GOENV", "GOMAXPROCS", "GOGC", "GOMEMLIMIT", "GOCOVERDIR", "GOTOOLCHAIN", "GOSUMDB", "GONOSUMDB",
			"RUSTFLAGS", "RUSTC", "RUSTC_WRAPPER", "RUST_BACKTRACE", "RUST_LOG", "MAKEFLAGS", "MAKEFILES", "MFLAGS", "CC", "CXX", "CFLAGS", "LDFLAGS", "TS_NODE_OPTIONS", "ELECTRON_RUN_AS_NODE",
			"PYTHONSTARTUP", "PYTHONPATH", "PYTHONHOME", "OPENSSL_CONF", "OPENSSL_CONF_INCLUDE", "OPENSSL_MODULES", "OPENSSL_ENGINES", "OPENSSL_IA32CAP", "WEB_CONCURRENCY", "GUNICORN_CMD_ARGS",
		},
		prefixes: []string{"PERL5", "PYTHON3", "DOTNET_STARTUP", "CORECLR_", "COR_", "COMPLUS_"},
		families: []string{
			"NODE_", "NPM_CONFIG_", "YARN_", "PNPM_", "BUN_", "DENO_", "TSX_", "PYTHON", "PIP_", "UV_", "RUBY", "JRUBY_", "PHP_", "LUA_", "LUA5", "LUAJIT_", "DOTNET_", "ASPNETCORE_", "NUGET_", "MONO_",
			"PERL_", "ERL_", "GUILE_", "JULIA_", "R_", "CARGO_", "BUNDLER_", "COMPOSER_", "OTEL_JAVAAGENT_", "UVICORN_",
		},
	},
	{
		// Each program has a name of its own for this: PRISMA_QUERY_ENGINE_LIBRARY, ESBUILD_BINARY_PATH, PUPPETEER_EXECUTABLE_PATH.
		does:     "names a program or library that another program runs",
		endings:  []string{"_BINARY", "_BINARY_PATH", "_EXECUTABLE", "_EXECUTABLE_PATH", "_EXEC_PATH", "_BIN", "_BIN_PATH", "_LIBRARY", "_LIBRARY_PATH", "_PRELOAD", "_ASKPASS"},
		families: []string{"PRISMA_", "TS_NODE_", "ESBUILD_", "PUPPETEER_", "PLAYWRIGHT_", "SWC_", "TURBO_"},
	},
	{
		does: "makes git, ssh, an editor, a pager or another tool run a program",
		names: []string{
			"EDITOR", "VISUAL", "FCEDIT", "SUDO_EDITOR", "SUDO_ASKPASS", "PAGER", "MANPAGER", "BROWSER", "LESS", "LESSOPEN", "LESSCLOSE", "LESSKEY", "LESSSECURE", "LESSKEYIN", "MORE",
			"SVN_SSH", "CVS_RSH", "RSYNC_RSH", "RSH", "HGRCPATH", "HGEDITOR", "P4CONFIG", "SYSTEMD_PAGER", "SYSTEMD_EDITOR", "DEBUGGER", "GREP_OPTIONS", "TAR_OPTIONS", "TAPE", "RIPGREP_CONFIG_PATH",
			"KUBECONFIG", "KUBE_EDITOR", "DOCKER_CONFIG", "DOCKER_HOST", "CONTAINER_HOST", "GNUPGHOME", "GPG_AGENT_INFO", "NETRC", "CURL_HOME", "WGETRC", "SYSTEM_WGETRC", "VIMINIT", "EXINIT",
		},
		families: []string{"GIT_", "SSH_", "ANSIBLE_", "TF_CLI_"},
	},
	{
		does: "leads connections elsewhere, or changes which certificates are trusted",
		names: []string{
			"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY", "SOCKS_PROXY", "RSYNC_PROXY", "GRPC_PROXY", "CGI_HTTP_PROXY", "SOCKS_SERVER",
			"SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "NIX_SSL_CERT_FILE", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "WEBSOCKET_CLIENT_CA_BUNDLE",
			"PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGSERVICEFILE", "PGSYSCONFDIR", "PGPASSFILE", "PGOPTIONS", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL", "PGSSLCRLDIR", "PGSSLNEGOTIATION", "PGSSLSNI",
			"PGSSLCERTMODE", "PGSSLMAXPROTOCOLVERSION", "PGSSLMINPROTOCOLVERSION", "PGREQUIRESSL", "PGREQUIREAUTH", "PGREQUIREPEER", "PGCHANNELBINDING", "PGGSSENCMODE", "PGGSSLIB", "PGKRBSRVNAME", "PGGSSDELEGATION", "PGLOCALEDIR", "PGTARGETSESSIONATTRS", "PGLOADBALANCEHOSTS", "PGCLIENTENCODING", "PGDATA",
			"PSQLRC", "PSQL_EDITOR", "PSQL_PAGER", "PSQL_HISTORY", "MYSQL_HOST", "MYSQL_TCP_PORT", "MYSQL_UNIX_PORT", "MYSQL_HOME", "MYSQL_GROUP_SUFFIX", "MYSQL_TEST_LOGIN_FILE", "LIBMYSQL_PLUGINS", "LIBMYSQL_PLUGIN_DIR", "REDISCLI_RCFILE", "REDISCLI_HISTFILE",
			"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_DATA_PATH", "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "BOTO_CONFIG", "AZURE_CONFIG_DIR", "CLOUDSDK_CONFIG", "CLOUDSDK_PYTHON",
		},
		prefixes: []string{"AWS_ENDPOINT_URL", "AWS_CONTAINER_", "KUBERNETES_SERVICE_", "KUBERNETES_PORT"},
	},
}

// Reserved returns what a name does where it changes how processes run, and nothing for any other name. It ignores case, as
// some systems and programs do.
func Reserved(name string) (does string) {
	name = strings.ToUpper(name)
	begins := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	ends := func(suffix string) bool { return strings.HasSuffix(name, suffix) }
	for _, g := range reserved {
		switch {
		case slices.Contains(g.names, name), slices.ContainsFunc(g.prefixes, begins), slices.ContainsFunc(g.endings, ends):
			return g.does
		case slices.ContainsFunc(g.families, begins) && !slices.ContainsFunc(credentials, ends):
			return g.does
		}
	}
	return ""
}

// CheckReserved refuses a reserved name that is not in allowed.
func CheckReserved(name string, allowed []string) error {
	does := Reserved(name)
	if does == "" || slices.Contains(allowed, name) {
		return nil
	}
	return fmt.Errorf("name %s is reserved: it %s", name, does)
}

// Layout names the byte order of an envelope and what its secret means. The two layouts are the platform's
// (docs/platform.md).
type Layout string

const (
	// TagFirst is salt 64, iv 16, tag 16, ciphertext; the derivation input is the 32 bytes that the key's
	// standard base64 decodes to.
	TagFirst Layout = "tag-first"
	// TagLast is salt 64, iv 16, ciphertext, tag 16; the derivation input is the characters of the secret as UTF-8.
	TagLast Layout = "tag-last"
)

// Column is one text column of envelopes that a key protects.
type Column struct {
	Schema string `json:"schema" doc:"Schema; empty: public."`
	Table  string `json:"table" doc:"Table."`
	Column string `json:"column" doc:"Column."`
	Layout Layout `json:"layout" doc:"Layout of the envelopes: tag-first or tag-last."`
	Where  []Term `json:"where,omitempty" doc:"Which rows: all of these terms hold. Absent: all rows."`
}

// Term compares a column of a table with a value, as text.
type Term struct {
	Column string `json:"column" doc:"A column of the same table."`
	Is     string `json:"is" doc:"=, !=, is null or is not null."`
	Value  string `json:"value,omitempty" doc:"The value, as text, that = and != compare with."`
}

func (t Term) String() string {
	if strings.HasPrefix(t.Is, "is ") {
		return t.Column + " " + t.Is
	}
	return t.Column + t.Is + t.Value
}

// String is the qualified name, for people: table.column, with the schema where it is not public.
func (c Column) String() string {
	if c.Schema == "" || c.Schema == "public" {
		return c.Table + "." + c.Column
	}
	return c.Schema + "." + c.Table + "." + c.Column
}

// ParseColumn reads [schema.]table.column, without a layout.
func ParseColumn(text string) (Column, error) {
	parts := strings.Split(text, ".")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return Column{}, fmt.Errorf("%q is not [schema.]table.column, such as users.two_factor_secret", text)
	}
	var c Column
	if len(parts) == 3 {
		c.Schema, parts = parts[0], parts[1:]
	}
	c.Table, c.Column = parts[0], parts[1]
	return c, nil
}

// ParseProtected reads [schema.]table.column:layout, with " where " and terms with " and " between them: column=value,
// column!=value, column is null, column is not null.
func ParseProtected(text string) (Column, error) {
	place, where, conditional := strings.Cut(text, " where ")
	name, layout, ok := strings.Cut(strings.TrimSpace(place), ":")
	c, err := ParseColumn(name)
	if !ok || err != nil {
		return c, fmt.Errorf("%q is not [schema.]table.column:layout, such as users.two_factor_secret:tag-last", text)
	}
	c.Layout = Layout(layout)
	if !conditional {
		return c, nil
	}
	for _, part := range strings.Split(where, " and ") {
		t, err := parseTerm(strings.TrimSpace(part))
		if err != nil {
			return c, err
		}
		c.Where = append(c.Where, t)
	}
	return c, nil
}

func parseTerm(text string) (Term, error) {
	for _, is := range []string{"is not null", "is null"} {
		if column, ok := strings.CutSuffix(text, " "+is); ok && column != "" {
			return Term{Column: strings.TrimSpace(column), Is: is}, nil
		}
	}
	for _, is := range []string{"!=", "="} {
		if column, value, ok := strings.Cut(text, is); ok && strings.TrimSpace(column) != "" {
			return Term{strings.TrimSpace(column), is, strings.TrimSpace(value)}, nil
		}
	}
	return Term{}, fmt.Errorf("%q is not a condition; write column=value, column!=value, column is null or column is not null, with \" and \" between several", text)
}

// Protected is the form that ParseProtected reads.
func (c Column) Protected() string {
	text := c.String() + ":" + string(c.Layout)
	for n, t := range c.Where {
		text += map[bool]string{true: " where ", false: " and "}[n == 0] + t.String()
	}
	return text
}

// Equal reports whether two columns are the same, and the same rows of it.
func (c Column) Equal(o Column) bool {
	return c.Schema == o.Schema && c.Table == o.Table && c.Column == o.Column && c.Layout == o.Layout && slices.Equal(c.Where, o.Where)
}

// Validate names what is missing or unknown.
func (c Column) Validate() error {
	switch {
	case c.Table == "":
		return errors.New("protects: table is empty; name the table that holds the envelopes")
	case c.Column == "":
		return fmt.Errorf("protects: column of table %q is empty; name the column that holds the envelopes", c.Table)
	case c.Layout != TagFirst && c.Layout != TagLast:
		return fmt.Errorf("protects: layout %q of %s is not known; use %q or %q", c.Layout, c, TagFirst, TagLast)
	}
	for _, t := range c.Where {
		if t.Column == "" || !slices.Contains([]string{"=", "!=", "is null", "is not null"}, t.Is) {
			return fmt.Errorf("protects: condition %q of %s is not known; write column=value, column!=value, column is null or column is not null", t, c)
		}
	}
	return nil
}

// masterKeyBytes is what AES-256 takes.
const masterKeyBytes = 32

// MasterKey returns the 32 bytes of a master key, which must be standard base64 with padding. It is strict: the platform
// decodes leniently and then uses whatever bytes come out, so that a value that is almost right would encrypt rows under
// a key that nobody can write down again. Errors say what is wrong and do not hold the value.
func MasterKey(v Value) ([]byte, error) {
	text := v.Reveal()
	if strings.ContainsAny(text, "-_") {
		return nil, errors.New("value is url-safe base64 ('-' or '_'); the master key must be standard base64, with '+', '/' and '=' padding")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("value is not standard base64 with padding; if it is in use, is all of it there? A new one is made by: openssl rand -base64 32")
	}
	if len(raw) != masterKeyBytes {
		return nil, fmt.Errorf("value decodes to %d bytes; the master key must be exactly %d; if it is in use, is all of it there? A new one is made by: openssl rand -base64 32", len(raw), masterKeyBytes)
	}
	return raw, nil
}
