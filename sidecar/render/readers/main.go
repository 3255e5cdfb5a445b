// SPDX-License-Identifier: Apache-2.0

// Command readers reads env files as Docker's own programs do, for the tests of render: each line of its input is a path,
// and for each it prints one line of JSON with what was read. It is a module of its own, so that the product does not
// depend on what it checks itself against.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/docker/cli/pkg/kvfile"
)

func main() {
	read := map[string]func(path string) (map[string]string, error){"docker": docker, "compose": compose}[strings.Join(os.Args[1:], " ")]
	if read == nil {
		fmt.Fprintln(os.Stderr, "usage: readers docker|compose")
		os.Exit(2)
	}
	out := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		values, err := read(lines.Text())
		if err != nil {
			values = map[string]string{"error": err.Error()}
		}
		if err := out.Encode(values); err != nil {
			os.Exit(1)
		}
	}
}

// docker is "docker run --env-file".
func docker(path string) (map[string]string, error) {
	lines, err := kvfile.Parse(path, func(string) (string, bool) { return "", false })
	values := map[string]string{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		values[name] = value
	}
	return values, err
}

// compose is env_file of Docker Compose.
func compose(path string) (map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return dotenv.ParseWithLookup(file, func(string) (string, bool) { return "", false })
}
