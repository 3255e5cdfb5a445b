// SPDX-License-Identifier: Apache-2.0

package pgsession

import (
	"errors"
	"strings"
	"unicode"
)

// lists are the settings whose value is a list of names that are quoted where needed, and how unquoted ones are read. They
// are those with GUC_LIST_QUOTE in src/backend/utils/misc/guc_tables.c (guc.c before 16), the same in PostgreSQL 13 to 18;
// pg_dump's variable_is_guc_list_quote has them, too. An extension's setting never is one: DefineCustomStringVariable
// refuses the flag.
var lists = map[string]func(string) bool{
	"search_path":               endsWord,
	"temp_tablespaces":          endsWord,
	"local_preload_libraries":   endsPath,
	"session_preload_libraries": endsPath,
	"shared_preload_libraries":  endsPath,
	"unix_socket_directories":   endsPath,
}

var errList = errors.New("it is no list of names as PostgreSQL reads it")

// ListSetting reports whether a setting is a list of quoted names.
func ListSetting(name string) bool { return lists[strings.ToLower(name)] != nil }

// ParseList splits the value of a list setting as the server does: SplitIdentifierString for names of schemas and
// tablespaces, SplitDirectoriesString for files (src/backend/utils/adt/varlena.c). Names are not cut to 63 bytes.
func ParseList(setting, value string) ([]string, error) {
	ends := lists[strings.ToLower(setting)]
	if ends == nil {
		return nil, errors.New("it is no setting of a list")
	}
	if strings.ContainsRune(value, 0) {
		return nil, errList
	}
	names := []string{}
	rest := strings.TrimLeft(value, space)
	if rest == "" {
		return names, nil
	}
	for {
		name, after, err := next(rest, ends)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
		after = strings.TrimLeft(after, space)
		if after == "" {
			return names, nil
		}
		if after[0] != ',' {
			return nil, errList
		}
		rest = strings.TrimLeft(after[1:], space)
	}
}

// space is what the server's scanner_isspace takes for it. A vertical tab is space since PostgreSQL 16 and part of a name
// before; next refuses an unquoted one, so that the answer is the same for all.
const space = " \t\n\r\f"

// next takes a name from the front of a list.
func next(text string, ends func(string) bool) (name, rest string, err error) {
	if strings.HasPrefix(text, `"`) {
		return quoted(text[1:])
	}
	end := 0
	for end < len(text) && !ends(text[end:]) {
		end++
	}
	name = strings.TrimRight(text[:end], space)
	if name == "" || strings.ContainsRune(name, '\v') {
		return "", "", errList
	}
	if ends(" ") {
		name, err = fold(name)
	}
	return name, text[end:], err
}

// quoted takes a name whose opening quote is gone.
func quoted(text string) (name, rest string, err error) {
	var b strings.Builder
	for {
		end := strings.IndexByte(text, '"')
		if end < 0 {
			return "", "", errList
		}
		b.WriteString(text[:end])
		text = text[end+1:]
		if !strings.HasPrefix(text, `"`) {
			return b.String(), text, nil
		}
		b.WriteByte('"')
		text = text[1:]
	}
}

// fold makes an unquoted name lower case. The server does that to ASCII letters; to others only in databases of a one-byte
// encoding, by its locale. Names for which that makes a difference are refused: SET always quotes them.
func fold(name string) (string, error) {
	if strings.ContainsFunc(name, func(r rune) bool { return r > unicode.MaxASCII && unicode.ToLower(r) != r }) {
		return "", errList
	}
	folded := []byte(name)
	for n, c := range folded {
		if c >= 'A' && c <= 'Z' {
			folded[n] = c + ('a' - 'A')
		}
	}
	return string(folded), nil
}

// endsWord reports whether an unquoted name of a schema or tablespace ends before text.
func endsWord(text string) bool { return text[0] == ',' || strings.IndexByte(space, text[0]) >= 0 }

// endsPath reports whether an unquoted name of a file ends before text; it may hold spaces.
func endsPath(text string) bool { return text[0] == ',' }

// FormatList is a list as ALTER ROLE … SET … TO takes it: string constants with commas between. The server quotes each by
// itself when it stores them. No text makes an empty list; one empty name does the same for schemas and tablespaces.
func FormatList(names []string) string {
	if len(names) == 0 {
		return Literal("")
	}
	quoted := make([]string, 0, len(names))
	for _, name := range names {
		quoted = append(quoted, Literal(name))
	}
	return strings.Join(quoted, ", ")
}
