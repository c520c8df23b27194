// Package ringmaster_test holds the rules that no compiler checks: which way imports run, how packages are named and
// documented, that tests wait on conditions rather than on the clock, and that the documents keep up with the code.
package ringmaster_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ringmasterd/ringmaster"

// layers says what of this module each layer may import, tests aside. internal/config reads the file that configures the layers beside it;
// every other package under internal is a detail: anybody may import it, and it knows at most messages and shared memory. What is not listed here (examples, bench)
// may import whatever is public.
var layers = map[string][]string{
	"detail":          {"detail", "shm", "ipc"},
	"shm":             {"detail"},
	"ipc":             {"detail", "shm"},
	"worker":          {"detail", "shm", "ipc"},
	"supervisor":      {"detail", "shm", "ipc"},
	"client":          {"detail", "shm", "ipc"},
	"chain":           {"detail", "ipc"},
	"proto":           {},
	"gateway":         {"detail", "shm", "ipc", "chain", "proto"},
	"internal/config": {"detail", "shm", "ipc", "supervisor", "chain", "gateway"},
	"cmd":             {"detail", "shm", "ipc", "worker", "supervisor", "client", "chain", "gateway", "internal/config", "bench"},
}

// vague names tell a reader nothing about what a package is for.
var vague = []string{"util", "utils", "common", "manager", "helper", "helpers", "types", "misc", "base"}

type goPackage struct {
	ImportPath   string
	Name         string
	Dir          string
	GoFiles      []string
	CgoFiles     []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	output, err := exec.Command("go", "list", "-e", "-json", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(output))); decoder.More(); {
		var p goPackage
		if err := decoder.Decode(&p); err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
	return all
}

// layer is the part of this module that an import path belongs to, or "" for a path outside it.
func layer(importPath string) string {
	inside, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	if first, _, _ := strings.Cut(inside, "/"); first != "internal" {
		return first
	}
	if inside == "internal/config" {
		return inside
	}
	return "detail"
}

func TestImportsRunOneWay(t *testing.T) {
	for _, p := range packages(t) {
		allowed, layered := layers[layer(p.ImportPath)]
		for _, imported := range p.Imports {
			target := layer(imported)
			switch {
			case target == "" || target == layer(p.ImportPath):
			case target == "cmd":
				t.Errorf("%s imports %s: nothing imports a command", p.ImportPath, imported)
			case layered && !slices.Contains(allowed, target):
				t.Errorf("%s imports %s: %s may import only %v (see docs/architecture.md)",
					p.ImportPath, imported, layer(p.ImportPath), allowed)
			}
		}
	}
}

func TestEveryPackageSaysOnceWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		files := slices.Concat(p.GoFiles, p.CgoFiles)
		if len(files) == 0 {
			continue
		}
		var documented []string
		for _, name := range files {
			file := parse(t, filepath.Join(p.Dir, name), parser.PackageClauseOnly)
			if file.Doc != nil && strings.TrimSpace(file.Doc.Text()) != "" {
				documented = append(documented, name)
			}
		}
		if len(documented) != 1 {
			t.Errorf("%s: want exactly one package comment, found %d %v", p.ImportPath, len(documented), documented)
		}
	}
}

func TestPackageNamesSaySomething(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains(vague, p.Name) {
			t.Errorf("%s: the name %q says nothing about what the package is for", p.ImportPath, p.Name)
		}
	}
}

func TestTestsDoNotSleep(t *testing.T) {
	for _, p := range packages(t) {
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			path := filepath.Join(p.Dir, name)
			for _, position := range sleeps(t, path) {
				t.Errorf("%s calls time.Sleep: wait for what the test is about (a channel, a state, a deadline on a poll)", position)
			}
		}
	}
}

// sleeps finds the calls and mentions of time.Sleep in a file, under whatever name it imports package time.
func sleeps(t *testing.T, path string) []token.Position {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var local string
	for _, spec := range file.Imports {
		if value, err := strconv.Unquote(spec.Path.Value); err != nil || value != "time" {
			continue
		}
		local = "time"
		if spec.Name != nil {
			local = spec.Name.Name
		}
	}
	if local == "" {
		return nil
	}
	var found []token.Position
	ast.Inspect(file, func(node ast.Node) bool {
		selector, ok := node.(*ast.SelectorExpr)
		if !ok || selector.Sel.Name != "Sleep" {
			return true
		}
		if receiver, ok := selector.X.(*ast.Ident); ok && receiver.Name == local {
			found = append(found, set.Position(selector.Pos()))
		}
		return true
	})
	return found
}

func TestEveryDependencyHasAReason(t *testing.T) {
	output, err := exec.Command("go", "mod", "edit", "-json").Output()
	if err != nil {
		t.Fatalf("go mod edit: %v", err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(output, &mod); err != nil {
		t.Fatal(err)
	}
	const record = "docs/decisions/0001-dependencies.md"
	reasons := read(t, record)
	for _, requirement := range mod.Require {
		if !requirement.Indirect && !strings.Contains(reasons, "`"+requirement.Path+"`") {
			t.Errorf("%s does not say why go.mod requires %s", record, requirement.Path)
		}
	}
}

func TestEveryDecisionIsListed(t *testing.T) {
	const directory = "docs/decisions"
	index := read(t, filepath.Join(directory, "README.md"))
	pages, err := filepath.Glob(filepath.Join(directory, "[0-9]*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		if !strings.Contains(index, "("+filepath.Base(page)+")") {
			t.Errorf("%s/README.md does not list %s", directory, filepath.Base(page))
		}
	}
}

// A path that exists on one machine only is of no use to anybody else.
var machinePath = regexp.MustCompile(`(?:^|[\s"'=:(` + "`" + `])/(?:root|home|Users|work)/[\w.-]+`)

func TestNoPathsOfOneMachine(t *testing.T) {
	for _, path := range tracked(t) {
		for number, line := range strings.Split(read(t, path), "\n") {
			if match := machinePath.FindString(line); match != "" {
				t.Errorf("%s:%d: %q is a path of somebody's machine", path, number+1, strings.TrimSpace(match))
			}
		}
	}
}

var (
	fenced = regexp.MustCompile("(?s)```.*?```")
	link   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

func TestLinksInDocumentsLeadSomewhere(t *testing.T) {
	for _, path := range tracked(t) {
		if filepath.Ext(path) != ".md" {
			continue
		}
		for _, match := range link.FindAllStringSubmatch(fenced.ReplaceAllString(read(t, path), ""), -1) {
			target, _, _ := strings.Cut(match[1], "#")
			if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), target)); err != nil {
				t.Errorf("%s links to %s, which is not there", path, match[1])
			}
		}
	}
}

// tracked lists the files git keeps that are there as text.
func tracked(t *testing.T) []string {
	t.Helper()
	if _, err := os.Stat(".git"); os.IsNotExist(err) {
		t.Skip("not a git checkout")
	}
	output, err := exec.Command("git", "ls-files", "-z").Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	var paths []string
	for path := range strings.SplitSeq(strings.TrimRight(string(output), "\x00"), "\x00") {
		info, err := os.Lstat(path)
		if err != nil || info.Mode()&fs.ModeType != 0 || binary(path) {
			continue
		}
		paths = append(paths, path)
	}
	return paths
}

// binary files hold a zero byte, as git itself decides it.
func binary(path string) bool {
	content, err := os.ReadFile(path)
	return err != nil || slices.Contains(content[:min(len(content), 8000)], 0)
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func parse(t *testing.T, path string, mode parser.Mode) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, mode|parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
