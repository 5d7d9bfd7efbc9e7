package list_test

import (
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/planner/schematest"
	"github.com/osism/skopeo-worker/shared/selection"
)

const schemaFile = "../../docs/list.schema.json"

// TestSchema: the parser and the schema accept and refuse the same lists.
func TestSchema(t *testing.T) {
	compiled := schematest.Compile(t, schemaFile)
	judge := func(t *testing.T, text string) (bySchema, byParser error) {
		_, byParser = list.Parse([]byte(text), "s", dest, selection.Selection{})
		return compiled.Validate(schematest.Value(t, text)), byParser
	}
	good := []string{
		"containers: [a]\npypi: {}",
		"containers: [quay.io/a/*, a/*, 'host:5000/*', a/b/*]",
		"containers: [a, 'quay.io/a/b:1', 'localhost/a', 'host:5000/a/b_c__d--e.f', 'Quay.IO/e', '[::1]:5000/f', 'g" + sha + "', 'b:1" + sha + "']",
	}
	bad := []string{"{}", "[a]", "a", "containers:", "containers: []", "containers: a", "containers: {a: b}", "containers: [1.25]", "containers: [~]", "containers: [[a]]", "containers: [true]"}
	for _, image := range []string{"", "A", "a b", "a:", "a:-x", "quay.io:0/a/b", "https://a/b", "/a", "a/", "a//b", "a@sha256:1", "user:x@quay.io/a", "a:1:2", "a" + strings.Replace(sha, "sha256", "md5", 1)} {
		bad = append(bad, "containers: ['"+image+"']", "containers: [{image: '"+image+"'}]")
	}
	for _, entry := range []string{
		"image: a", "image: 'a:1', destination: b", "image: 'a" + sha + "', platforms: [linux/amd64]",
		"image: 'host:5000/a', tags: {limit: 1}",
		"image: a, attestations: true", "image: a, attestations: False, referrers: true",
		"image: a, platforms: [linux/amd64, linux/x86_64, linux/arm/v7, linux/arm/7, macos/aarch64, linux/riscv64/rva22u64]",
		"image: a, backup: '{tag}-{date}'", "image: a, backup: false", "image: 'a:1', backup: 'old-{tag}'",
		"image: a, min_age: 3d", "image: 'a:1', min_age: 36h", "image: a, min_age: false", "image: a, min_age: 1h30m", "image: a, tags: {newer_than: 90d, limit: 3}", "image: a, min_tags: 5, tags: {include: v}",
		"image: quay.io/a/*", "image: 'localhost:5000/*', tags: {limit: 1}", "image: a/*, repositories: {include: b, exclude: [c, d]}, min_repositories: 3",
		"image: a/*, destination: b/c", "image: quay.io/a/*, min_repositories: 1, immutable: v",
		"image: a, destination: b/c-d/e_f.g", "image: a, immutable: v", "image: 'a:1', immutable: [v, '[0-9]']", "image: a, immutable: false",
		"image: a, keep: v", "image: 'a:1', keep: [v, '[0-9]']", "image: a/*, keep: v", "image: a, keep: false",
		"image: a, tags: {include: a}", "image: a, tags: {include: [a, '(?i)b|c'], exclude: [c]}", "image: a, tags: {exclude: c}",
		"image: a, tags: {limit: 0}", "image: a, tags: {limit: 5.0}", "image: a, tags: {limit: 0x10}",
		"image: a, tags: {list: [a, '1.25', a]}",
		"image: a, tags: {semver: '>=1.2 <3', limit: 5, include: v, exclude: [w]}",
		"<<: {image: a, tags: {limit: 1}}, image: b", "<<: [{image: a}, {image: 'b:1', tags: {limit: 3}}]",
		"image: &x a, destination: *x",
	} {
		good = append(good, "containers: [{"+entry+"}]")
	}
	for _, entry := range []string{
		"", "image: ~", "image: 1", "image: [a]", "nginx: 1.25", "tags: {limit: 1}", "image: a, imagee: b", "image: a, limit: 5", "<<: {x: y}, image: a",
		"image: 'a:1', tags: {limit: 1}", "image: 'a" + sha + "', tags: {limit: 1}", "image: 'host:5000/a:1', tags: {limit: 1}",
		"image: a, attestations: 'true'", "image: a, attestations: 1", "image: a, attestations: yes", "image: a, referrers: ~", "image: a, referrers: []",
		"image: a, platforms: linux/amd64", "image: a, platforms: []", "image: a, platforms: ~", "image: a, platforms: [1]", "image: a, platforms: {a: b}",
		"image: a, platforms: [linux]", "image: a, platforms: [linux/amd46]", "image: a, platforms: [Linux/amd64]", "image: a, platforms: ['linux/amd64 ']",
		"image: a, platforms: [linux/arm/v7/x]", "image: a, platforms: ['linux/arm/']", "image: a, platforms: [linux/arm/-]",
		"image: a, backup: '{tag}'", "image: a, backup: '{date}'", "image: a, backup: ''", "image: a, backup: true", "image: a, backup: '{tag}-{time}'", "image: a, backup: '-{tag}'", "image: a, backup: '{tag} old'", "image: a, backup: 1",
		"image: a, min_age: 3", "image: a, min_age: ''", "image: a, min_age: 0d", "image: a, min_age: true", "image: a, min_age: 3 days", "image: a, min_age: -1h", "image: a, newer_than: 3d",
		"image: a, tags: {newer_than: x}", "image: a, tags: {newer_than: 0d}", "image: a, tags: {newer_than: 3d, list: [a]}",
		"image: a, min_tags: 0", "image: a, min_tags: '1'", "image: 'a:1', min_tags: 1", "image: a, min_tags: 1, tags: {list: [a]}",
		"image: a, repositories: {include: b}", "image: a, min_repositories: 1", "image: a/*, min_repositories: 0", "image: a/*, min_repositories: '1'", "image: a/*, min_repositories: 1.5",
		"image: a/*, repositories: {}", "image: a/*, repositories: []", "image: a/*, repositories: {limit: 1}", "image: a/*, repositories: {include: ''}", "image: a/*, repositories: {include: []}",
		"image: 'a/*:1'", "image: a/b*", "image: quay.io/*/b", "image: docker.io/*", "image: '*'", "image: quay.io/A/*", "image: a/**", "image: a/*, destination: B", "image: a/*, destination: ''",
		"image: a, immutable: true", "image: a, immutable: []", "image: a, immutable: ''", "image: a, immutable: [1]", "image: a, immutable: ~",
		"image: a, keep: true", "image: a, keep: []", "image: a, keep: ''", "image: a, keep: [1]", "image: a, keep: ~", "image: a, keep: {include: v}", "image: a, tags: {keep: v}",
		"image: a, destination: ''", "image: a, destination: /b", "image: a, destination: b/", "image: a, destination: 'b:1'", "image: a, destination: B",
		"image: a, destination: 'b" + sha + "'", "image: a, destination: 1", "image: a, destination: ~", "image: a, destination: b//c", "image: a, destination: ..", "image: a, destination: 'h:5/b'",
		"image: a, tags: ~", "image: a, tags: {}", "image: a, tags: []", "image: a, tags: v", "image: a, tags: {x: y}", "image: a, tags: {image: y}",
		"image: a, tags: {include: ''}", "image: a, tags: {include: []}", "image: a, tags: {include: ['']}", "image: a, tags: {include: 1.2}", "image: a, tags: {include: [1.2]}", "image: a, tags: {exclude: ~}", "image: a, tags: {exclude: {a: b}}",
		"image: a, tags: {limit: -1}", "image: a, tags: {limit: 1.5}", "image: a, tags: {limit: '5'}", "image: a, tags: {limit: ~}", "image: a, tags: {limit: 3000000000}", "image: a, tags: {limit: [1]}",
		"image: a, tags: {list: []}", "image: a, tags: {list: a}", "image: a, tags: {list: [1.25]}", "image: a, tags: {list: ['']}", "image: a, tags: {list: [-a]}", "image: a, tags: {list: [" + strings.Repeat("a", 129) + "]}",
		"image: a, tags: {list: [a], limit: 1}", "image: a, tags: {list: [a], include: a}", "image: a, tags: {list: [a], semver: '1'}", "image: a, tags: {list: [a], exclude: a}",
	} {
		bad = append(bad, "containers: [{"+entry+"}]")
	}
	for _, constraint := range []string{">=1.2 <3", ">= 1.2, < 3", "1.2", "=v1.2.3", "1.x", "*", "~1.4 || ^2", " ~>1 ", "!=1", "=<2 =>1", "1.2 - 3", "1.2.3-rc.1", ">=2-0"} {
		good = append(good, "containers: [{image: a, tags: {semver: '"+constraint+"'}}]")
	}
	for _, constraint := range []string{"", " ", "newest", ">", ">=a", "1.2.3.4", "1 |2", "||", "1 ||", "1 , ", ">>1", "1.2-", "1..2"} {
		bad = append(bad, "containers: [{image: a, tags: {semver: '"+constraint+"'}}]")
	}
	for _, text := range good {
		bySchema, byParser := judge(t, text)
		require.NoError(t, bySchema, text)
		require.NoError(t, byParser, text)
	}
	for _, text := range bad {
		bySchema, byParser := judge(t, text)
		require.Error(t, bySchema, text)
		require.ErrorIs(t, byParser, list.ErrBadList, text)
	}
	// The parser also refuses mistakes that a schema cannot express.
	for _, text := range []string{
		"containers: [yes]",
		"containers: [a, quay.io/library/a]",
		"containers: ['h:65536/a']",
		"containers: ['" + hex64 + "']",
		"containers: [" + strings.Repeat("a", 256) + "]",
		"containers: [{image: a, tags: {include: '(?!a)'}}]",
		"containers: [{image: a, tags: {semver: '1.99999999999999999999'}}]",
		"containers: [{image: a, tags: {include: '" + strings.Repeat("a", selection.MaxBytes) + "'}}]",
		"containers: [{image: a}, {image: a, platforms: [linux/amd64]}]",
	} {
		bySchema, byParser := judge(t, text)
		require.NoError(t, bySchema, text)
		require.ErrorIs(t, byParser, list.ErrBadList, text)
	}
}

// TestSchemaInAnEditor: the schema reports no mistake in a valid list, and describes every key with
// an example.
func TestSchemaInAnEditor(t *testing.T) {
	data, err := os.ReadFile("testdata/osism.yml")
	require.NoError(t, err)
	compiled := schematest.Compile(t, schemaFile)
	require.NoError(t, compiled.Validate(schematest.Value(t, string(data))))

	seen := map[*jsonschema.Schema]bool{}
	var walk func(name string, s *jsonschema.Schema)
	walk = func(name string, s *jsonschema.Schema) {
		if s == nil || seen[s] {
			return
		}
		seen[s] = true
		for _, example := range s.Examples {
			require.NoError(t, s.Validate(example), name)
		}
		if name != "" && s.Ref == nil {
			require.NotEmpty(t, s.Title, name)
			require.NotEmpty(t, s.Description, name)
			if name != "containers" {
				require.NotEmpty(t, s.Examples, name)
			}
		}
		walk(name, s.Ref)
		walk("", s.Items2020)
		for _, other := range s.AnyOf {
			walk("", other)
		}
		for key, property := range s.Properties {
			walk(key, property)
		}
	}
	walk("", compiled)
	require.Greater(t, len(seen), 15)
}

// TestDocumentedLists: the lists in docs/list.md are valid.
func TestDocumentedLists(t *testing.T) {
	page, err := os.ReadFile("../../docs/list.md")
	require.NoError(t, err)
	blocks := strings.Split(string(page), "```yaml\n")[1:]
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		text, _, _ := strings.Cut(block, "```")
		_, err := list.Parse([]byte(text), "s", dest, selection.Selection{})
		require.NoError(t, err, text)
		require.NoError(t, schematest.Compile(t, schemaFile).Validate(schematest.Value(t, text)), text)
	}
}
