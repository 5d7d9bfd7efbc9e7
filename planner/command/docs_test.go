package command

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	// function matches package.Function or package.Type.Method in backticks.
	function = regexp.MustCompile("`([a-z]+)\\.(?:(\\w+)\\.)?([A-Za-z]\\w*)`")
	root     = filepath.Join("..", "..")
)

// functions returns the functions of a package, and its methods as Type.Method.
func functions(t *testing.T, name string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, module := range []string{"planner", "worker", "shared"} {
		files, err := filepath.Glob(filepath.Join(root, module, name, "*.go"))
		require.NoError(t, err)
		for _, path := range files {
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok {
					found[receiver(f)+f.Name.Name] = true
				}
			}
		}
	}
	return found
}

// receiver returns "Type." for a method and "" for a function.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	of := f.Recv.List[0].Type
	if pointer, ok := of.(*ast.StarExpr); ok {
		of = pointer.X
	}
	name, ok := of.(*ast.Ident)
	if !ok {
		return ""
	}
	return name.Name + "."
}

// TestArchitecture: the functions that docs/architecture.md names on the way of a chunk exist.
func TestArchitecture(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	require.NoError(t, err)
	way := regexp.MustCompile(`(?s)## The way of one chunk\n(.*?)\n## `).FindSubmatch(text)
	require.NotNil(t, way)
	steps := function.FindAllStringSubmatch(string(way[1]), -1)
	require.Greater(t, len(steps), 20)
	for _, step := range steps {
		if step[0] == "`mirror.chunk`" { // a subject
			continue
		}
		name := step[3]
		if step[2] != "" {
			name = step[2] + "." + name
		}
		if step[1] == "delivery" { // short for consume.delivery
			step[1], name = "consume", "delivery."+step[3]
		}
		require.True(t, functions(t, step[1])[name], "docs/architecture.md names %s", step[0])
	}
}

// TestStreams: the table in docs/architecture.md lists every stream and bucket in the code.
func TestStreams(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	require.NoError(t, err)
	named := regexp.MustCompile(`"(mirror_[a-z]+)_?"`)
	found := map[string]bool{}
	for _, module := range []string{"planner", "worker", "shared"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(root, module), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			code, err := os.ReadFile(path)
			for _, match := range named.FindAllSubmatch(code, -1) {
				name := string(match[1])
				require.Regexp(t, "\\| (stream|bucket) `"+name, string(text), "%s names it", path)
				found[name] = true
			}
			return err
		}))
	}
	require.Greater(t, len(found), 20)
}
