package pruneplan_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/osism/skopeo-worker/planner/pruneplan"
	"github.com/osism/skopeo-worker/planner/schematest"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/prune"
)

var (
	one = reference.DigestOf([]byte("one"))
	two = reference.DigestOf([]byte("two"))
	// whole is a plan with every key.
	whole = prune.Plan{
		Version: prune.Version, Mirror: "default", Destination: "registry.example.com:5000/mirror", Made: time.Date(2026, 11, 27, 3, 0, 0, 123456789, time.UTC),
		Grace: (30 * 24 * time.Hour).String(), Recorded: 12, Tags: 3, Bytes: 5857,
		Repositories: []prune.Repository{{
			Repository: reference.MustRepository("registry.example.com:5000/mirror/osism/tool"), Recorded: 12,
			Tags: []prune.Tag{
				{Tag: reference.MustTag("1.25"), Digest: one, Why: "the source no longer lists it", Since: time.Date(2026, 10, 1, 3, 0, 0, 0, time.UTC), Alone: true},
				{Tag: reference.MustTag("yes"), Digest: one, Why: "it: belongs", Of: two, Bytes: 7},
			},
			Manifests: []reference.Digest{two},
		}},
		Left: []prune.Left{{Repository: reference.MustRepository("registry.example.com:5000/mirror/osism/other"), Tag: reference.MustTag("1"), Why: "it stays"}, {Repository: reference.MustRepository("registry.example.com:5000/mirror/osism/third"), Why: "it stays"}},
	}
	empty = prune.Plan{Version: prune.Version, Mirror: "a", Destination: "localhost", Grace: "0s", Made: time.Date(2026, 11, 27, 3, 0, 0, 0, time.FixedZone("", 3600)), Repositories: []prune.Repository{}, Left: []prune.Left{}}
)

const schemaFile = "../../docs/prune.schema.json"

func asYAML(t *testing.T, p prune.Plan) string {
	t.Helper()
	text, err := yaml.Marshal(p)
	require.NoError(t, err)
	return string(text)
}

// of returns an empty plan with another value of a key.
func of(t *testing.T, key, value string) string {
	t.Helper()
	text := asYAML(t, empty)
	require.Contains(t, text, key+": []")
	return strings.Replace(text, key+": []", key+": "+value, 1)
}

// TestRoundTrip: a plan is the same after writing and reading it, and satisfies the schema.
func TestRoundTrip(t *testing.T) {
	for _, p := range []prune.Plan{whole, empty} {
		asJSON, err := json.Marshal(p)
		require.NoError(t, err)
		for _, text := range []string{asYAML(t, p), string(asJSON)} {
			read, err := pruneplan.Read([]byte(text), "plan.yaml")
			require.NoError(t, err, text)
			require.Equal(t, p.ID(), read.ID(), text)
			require.NoError(t, schematest.Compile(t, schemaFile).Validate(schematest.Value(t, text)), text)
		}
	}
}

// TestSchema: the reader refuses what the schema refuses, and names the line. Each case edits a
// line of the whole plan.
func TestSchema(t *testing.T) {
	compiled, text := schematest.Compile(t, schemaFile), asYAML(t, whole)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	edit := func(from, to string) (edited string, line int) {
		t.Helper()
		for i, old := range lines {
			if strings.Contains(old, from) {
				changed := append([]string{}, lines...)
				changed[i] = strings.Replace(old, from, to, 1)
				return strings.Join(changed, "\n"), i + 1
			}
		}
		t.Fatalf("%q is not in the plan", from)
		return "", 0
	}
	for _, test := range []struct{ from, to, says string }{
		{"version: 1", "version: 2", "expected 1"}, {"version: 1", "version: '1'", "expected a whole number"}, {"version: 1", "version: ~", "found nothing"},
		{"mirror: default", "mirror: Default", "a mirror name"}, {"mirror: default", "mirror: 1", "with the quotes"}, {"mirror: default", "mirror: [a]", "found a list"},
		{"destination: registry", "destination: https://registry", "destination: "}, {"destination: registry.example.com:5000/mirror", "destination: ''", "destination: "},
		{"made: 2026", "made: 26", "expected a time"}, {"made: 2026", "made: x2026", "expected a time"}, {"grace: 720h0m0s", "grace: 30 days", "30d or 12h"}, {"grace: 720h0m0s", "grace: -1h", "30d or 12h"},
		{"recorded: 12", "recorded: -1", "0 or more"}, {"tags: 3", "tags: 1.5", "a whole number"}, {"bytes: 5857", "bytes: many", "a whole number"},
		{"- repository: registry.example.com:5000/mirror/osism/tool", "- repository: registry.example.com:5000/mirror/osism/tool:1", "repositories[0].repository"},
		{"- repository: registry.example.com:5000/mirror/osism/tool", "- repository: registry.example.com:5000/mirror/Osism", "repositories[0].repository"},
		{"- repository: registry.example.com:5000/mirror/osism/tool", "- repo: registry.example.com:5000/mirror/osism/tool", `unknown key "repo"`},
		{`- tag: "1.25"`, "- tag: 1.25", `write "1.25" with the quotes`}, {`- tag: "1.25"`, "- tag: -x", "repositories[0].tags[0].tag"}, {`- tag: "1.25"`, "- tag: ''", "repositories[0].tags[0].tag"}, {`- tag: "1.25"`, "- tag: ~", "found nothing"},
		{"digest: sha256", "digest: sha1", "repositories[0].tags[0].digest"}, {"digest: sha256:", "digest: sha256:0", "repositories[0].tags[0].digest"},
		{"why: the source", "why: 1 #", "expected a string"}, {"why: the source", "reason: the source", `unknown key "reason"`},
		{"since: 2026-10-01T03:00:00Z", "since: yesterday", "expected a time"}, {"alone: true", "alone: 'true'", "expected true or false"}, {"alone: true", "alone: 1", "expected true or false"},
		{"of: sha256", "of: latest # ", "repositories[0].tags[1].of"}, {"bytes: 7", "bytes: 7\n          keep: true", `unknown key "keep"`},
		{"- sha256", "- latest # ", "repositories[0].manifests[0]"},
		{"left:", "lefts:", `unknown key "lefts"`}, {"why: it stays", "whyy: it stays", `unknown key "whyy"`},
	} {
		edited, line := edit(test.from, test.to)
		_, err := pruneplan.Read([]byte(edited), "plan.yaml")
		require.ErrorIs(t, err, prune.ErrPlan, edited)
		require.ErrorContains(t, err, fmt.Sprintf("plan.yaml:%d: ", line+strings.Count(test.to, "\n")), edited)
		require.ErrorContains(t, err, test.says)
		require.Error(t, compiled.Validate(schematest.Value(t, edited)), edited)
	}
	for _, text := range []string{"", "[]", "a", "~", "{}", "- a\n- b", of(t, "repositories", "~"), of(t, "repositories", "{}"), of(t, "left", "~"), of(t, "left", "[a]"), of(t, "left", "[[]]")} {
		_, err := pruneplan.Read([]byte(text), "plan.yaml")
		require.ErrorIs(t, err, prune.ErrPlan, text)
		require.Error(t, compiled.Validate(schematest.Value(t, text)), text)
	}
}

// TestStricter: the reader also refuses mistakes that a schema cannot express.
func TestStricter(t *testing.T) {
	for text, says := range map[string]string{
		asYAML(t, empty) + "---\na: b\n": "plan.yaml:11: a second YAML document starts here, expected one",
		asYAML(t, empty) + "]\n":         "plan.yaml:11: broken YAML: did not find expected",
		"version: 1\nleft: [\na\n- b\n":  "plan.yaml:2: broken YAML: did not find expected ',' or ']'",
		"version: 1\n\tmirror: a\n":      "plan.yaml:2: broken YAML: the line is indented with a tab, expected spaces",
		asYAML(t, whole) + "left: []\n":  `duplicate key "left"`,
		"version: 1\n  mirror: a\n":      "plan.yaml:2: broken YAML: ",
		strings.Replace(asYAML(t, whole), "destination: registry.example.com:5000/mirror", "destination: registry.example.com:5000/other", 1): "is not below registry.example.com:5000/other",
		strings.Replace(strings.Replace(asYAML(t, whole), "why: it stays", "why: &a it stays", 1), "why: it stays", "why: *a", 1):             "found an alias",
	} {
		_, err := pruneplan.Read([]byte(text), "plan.yaml")
		require.ErrorContains(t, err, says)
		require.ErrorIs(t, err, prune.ErrPlan)
	}
	_, err := pruneplan.Read([]byte("{version: 3, mirror: A}"), "plan.yaml")
	var all *pruneplan.Error
	require.True(t, errors.As(err, &all))
	require.Greater(t, len(all.Problems), 8, "all at once")
}

// TestSchemaExamples: the examples of the schema are valid, and each key has a description.
func TestSchemaExamples(t *testing.T) {
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
		if name != "" {
			require.NotEmpty(t, s.Title, name)
			require.NotEmpty(t, s.Description, name)
			require.NotEmpty(t, s.Examples, name)
		}
		walk("", s.Ref)
		walk("", s.Items2020)
		for key, property := range s.Properties {
			walk(key, property)
		}
	}
	walk("", schematest.Compile(t, schemaFile))
	require.Greater(t, len(seen), 20)
}
