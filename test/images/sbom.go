// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
)

const ourModule = "github.com/hyvve/vault-plugin-secrets-hyvve"

func (p program) ours() bool { return p.info != nil && p.info.Main.Path == ourModule }

// The documents of SPDX 2.3: https://spdx.github.io/spdx-spec/v2.3/
type document struct {
	SPDXVersion       string         `json:"spdxVersion"`
	DataLicense       string         `json:"dataLicense"`
	SPDXID            string         `json:"SPDXID"`
	Name              string         `json:"name"`
	DocumentNamespace string         `json:"documentNamespace"`
	CreationInfo      creation       `json:"creationInfo"`
	Packages          []spdxPackage  `json:"packages"`
	Relationships     []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	SPDXID           string      `json:"SPDXID"`
	Name             string      `json:"name"`
	VersionInfo      string      `json:"versionInfo,omitempty"`
	PackageFileName  string      `json:"packageFileName,omitempty"`
	DownloadLocation string      `json:"downloadLocation"`
	FilesAnalyzed    bool        `json:"filesAnalyzed"`
	Checksums        []checksum  `json:"checksums,omitempty"`
	LicenseConcluded string      `json:"licenseConcluded"`
	LicenseDeclared  string      `json:"licenseDeclared"`
	CopyrightText    string      `json:"copyrightText"`
	Comment          string      `json:"comment,omitempty"`
	PrimaryPurpose   string      `json:"primaryPackagePurpose,omitempty"`
	ExternalRefs     []reference `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type reference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

// billOfMaterials says what a binary was linked from, by what the Go linker has written into it. Of a binary that Go has not
// built it says what is known, which is its checksum.
func billOfMaterials(p program, version string, created time.Time) ([]byte, error) {
	license := "NOASSERTION"
	if p.ours() {
		license = "Apache-2.0"
	}
	root := spdxPackage{
		SPDXID: "SPDXRef-binary", Name: p.name, VersionInfo: version, PackageFileName: "/usr/local/bin/" + p.name, PrimaryPurpose: "APPLICATION",
		Checksums: []checksum{{Algorithm: "SHA256", Value: p.sum}}, Comment: p.provenance(),
	}
	d := document{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT", Name: p.name + "-" + p.arch,
		// Unique, and the same for the same binary and version.
		DocumentNamespace: "https://hyvve.app/spdx/" + url.PathEscape(p.name) + "/" + url.PathEscape(version) + "/" + p.sum,
		CreationInfo:      creation{Created: created.Format(time.RFC3339), Creators: []string{"Tool: hyvve-images"}},
		Packages:          []spdxPackage{root.with(license)},
		Relationships:     []relationship{{Element: "SPDXRef-DOCUMENT", Type: "DESCRIBES", Related: root.SPDXID}},
	}
	if p.info != nil {
		d.add(standardLibrary(p.info).with("BSD-3-Clause"))
		if main := p.info.Main; main.Path != "" {
			d.add(modulePackage(main).with(license))
		}
		for _, m := range p.info.Deps {
			d.add(modulePackage(*m).with("NOASSERTION"))
		}
	}
	text, err := json.MarshalIndent(d, "", "  ")
	return append(text, '\n'), err
}

func (d *document) add(p spdxPackage) {
	d.Packages = append(d.Packages, p)
	d.Relationships = append(d.Relationships, relationship{Element: "SPDXRef-binary", Type: "CONTAINS", Related: p.SPDXID})
}

// with sets the licence, and what SPDX wants said even if nothing is known.
func (p spdxPackage) with(license string) spdxPackage {
	p.DownloadLocation, p.CopyrightText = "NOASSERTION", "NOASSERTION"
	p.LicenseConcluded, p.LicenseDeclared = license, license
	return p
}

func (p program) provenance() string {
	if p.info == nil {
		return "Not built by Go: what it was linked from is not known."
	}
	words := []string{"GOARCH=" + p.arch}
	for _, name := range []string{"-tags", "CGO_ENABLED", "vcs.revision", "vcs.time", "vcs.modified"} {
		if v := p.settings[name]; v != "" {
			words = append(words, name+"="+v)
		}
	}
	return "Built by " + p.info.GoVersion + ": " + strings.Join(words, " ")
}

var noID = regexp.MustCompile(`[^A-Za-z0-9.-]`)

func modulePackage(m debug.Module) spdxPackage {
	p := spdxPackage{SPDXID: "SPDXRef-module-" + noID.ReplaceAllString(m.Path, "-"), PrimaryPurpose: "LIBRARY"}
	if m.Replace != nil {
		p.Comment = fmt.Sprintf("In place of %s %s. ", m.Path, m.Version)
		m = *m.Replace
	}
	p.Name, p.VersionInfo = m.Path, m.Version
	if m.Sum != "" {
		p.Comment += "Checksum, as in go.sum: " + m.Sum
	}
	locator := "pkg:golang/" + m.Path
	if m.Version != "" && m.Version != "(devel)" {
		locator += "@" + url.QueryEscape(m.Version)
	}
	p.ExternalRefs = []reference{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: locator}}
	return p
}

func standardLibrary(info *debug.BuildInfo) spdxPackage {
	// "go1.26.1 X:experiment" is a version, too.
	version, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	return spdxPackage{
		SPDXID: "SPDXRef-module-stdlib", Name: "stdlib", VersionInfo: version, PrimaryPurpose: "LIBRARY",
		ExternalRefs: []reference{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: "pkg:golang/stdlib@" + version}},
	}
}
