package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/schematest"
	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// prunes returns the tags that a plan of planner prune deletes.
func (s *site) prunes(arguments ...string) (names []string) {
	s.t.Helper()
	s.destination.ResetRequests()
	p := s.planner(append([]string{"prune", "-o", "json"}, arguments...)...)
	p.exits(0)
	require.Zero(s.t, s.destination.Count(func(r registrytest.Request) bool { return r.Method != http.MethodGet && r.Method != http.MethodHead }))
	var plan prune.Plan
	require.NoError(s.t, json.NewDecoder(strings.NewReader(p.stdout.String())).Decode(&plan))
	isPlan(s.t, p.stdout.String())
	for _, r := range plan.Repositories {
		for _, t := range r.Tags {
			names = append(names, r.Repository.Path()+":"+t.Tag.String())
		}
	}
	return names
}

// isPlan requires that a plan satisfies its schema.
func isPlan(t *testing.T, text string) {
	t.Helper()
	schema := schematest.Compile(t, "../../docs/prune.schema.json")
	require.NoError(t, schema.Validate(schematest.Value(t, text)), text)
}

// TestPruneEdited: an edited plan is parsed strictly. The message has the line of each mistake.
func TestPruneEdited(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "1.25", "3", "4")
	s.write("osism/tool")
	s.planner("mirror").exits(0)
	require.NoError(t, s.source.Untag("osism/tool", "1"))
	require.NoError(t, s.source.Untag("osism/tool", "1.25"))
	s.planner("mirror").exits(0)
	file := filepath.Join(t.TempDir(), "plan.yaml")
	s.planner("prune", "--grace", "0s", "--max", "100%", "--max-per-repository", "100%", "-o", file).exits(0)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	isPlan(t, string(text))
	s.destination.ResetRequests()
	for from, says := range map[string]string{`- tag: "1.25"`: `expected a string, found "1.25"; write "1.25" with the quotes`, "bytes: ": `unknown key "by"`} {
		edited := strings.Replace(string(text), from, strings.NewReplacer(`"`, "", "bytes", "by").Replace(from), 1)
		require.NoError(t, os.WriteFile(file, []byte(edited), 0o600))
		line := 1 + strings.Count(string(text[:strings.Index(string(text), from)]), "\n")
		refused := s.planner("prune", "--execute", file).exits(2)
		require.Contains(t, refused, fmt.Sprintf("%s:%d: ", file, line))
		require.Contains(t, refused, says)
	}
	require.Zero(t, s.destination.Count(registrytest.Any))

	// One of two tags is removed from the plan.
	first, rest, _ := strings.Cut(string(text), `      - tag: "1"`)
	_, rest, _ = strings.Cut(rest, `      - tag: "1.25"`)
	require.NoError(t, os.WriteFile(file, []byte(first+`      - tag: "1.25"`+rest), 0o600))
	require.Contains(t, s.planner("prune", "--execute", file).exits(0), "1 tag deleted")
	tags, err := s.destination.Tags(prefix + "/osism/tool")
	require.NoError(t, err)
	require.Equal(t, []string{"1", "3", "4"}, tags)
}

// TestPruneAlone: a tag whose digest stays under another tag is deleted only from destinations that
// are known to delete a tag alone. Elsewhere it stays.
func TestPruneAlone(t *testing.T) {
	t.Parallel()
	for variable, options := range map[string][]registrytest.Option{
		"HARBOR_HOSTS": {registrytest.WithDeletion(registrytest.DeletesLikeHarbor), registrytest.WithHarborAPI(registrytest.BulkAPI{})},
		"QUAY_HOSTS":   {registrytest.WithDeletion(registrytest.DeletesLikeQuay)},
	} {
		t.Run(variable, func(t *testing.T) {
			s := newSite(t)
			s.destination = registrytest.New(t, options...)
			s.env["MIRROR_DEST_URL"] = s.destination.Host() + "/" + prefix
			s.env["INSECURE_REGISTRIES"] = s.source.Host() + "," + s.destination.Host()
			digests := s.push("osism/tool", "1", "2")
			require.NoError(t, s.source.Tag("osism/tool", "stable", digests[0]))
			s.write("osism/tool")
			s.planner("mirror").exits(0)
			require.NoError(t, s.source.Untag("osism/tool", "stable"))
			s.planner("mirror").exits(0)
			all := []string{"--grace", "0s", "--max", "100%", "--max-per-repository", "100%"}
			require.Empty(t, s.prunes(all...))

			s.env[variable] = s.destination.Host()
			file := filepath.Join(t.TempDir(), "plan.yaml")
			s.planner(append([]string{"prune", "-o", file}, all...)...).exits(0)
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Contains(t, string(text), "alone: true")
			isPlan(t, string(text))
			require.Contains(t, s.planner("prune", "--execute", file).exits(0), "1 tag deleted")
			tags, err := s.destination.Tags(prefix + "/osism/tool")
			require.NoError(t, err)
			require.Equal(t, []string{"1", "2"}, tags)
			require.NoError(t, s.destination.Check(prefix+"/osism/tool", "1"))
			require.Contains(t, s.planner("prune", "--execute", file).exits(0), "1 tag deleted", "it is finished")
		})
	}
}

// TestPruneNamespace: the list names the repositories of its namespaces.
func TestPruneNamespace(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2")
	s.write("osism/*")
	s.planner("mirror").exits(0)
	s.planner("mirror").exits(0)
	all := []string{"--grace", "0s", "--max", "100%", "--max-per-repository", "100%"}
	require.Empty(t, s.prunes(all...))
	require.NoError(t, s.source.Untag("osism/tool", "2"))
	s.planner("mirror").exits(0)
	require.Equal(t, []string{prefix + "/osism/tool:2"}, s.prunes(all...))
}

// TestPrunePlan: dropped tags are planned after the grace period, and within the caps. Tags that
// were not mirrored are never planned.
func TestPrunePlan(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.Contains(t, s.planner("prune").exits(2), "nothing has run here")
	s.push("osism/tool", "1", "2", "3")
	s.push("osism/other", "1", "2")
	s.write("osism/tool", "osism/other")
	s.planner("mirror").exits(0)
	_, err := s.destination.PushImage(prefix+"/osism/tool", "stray", registrytest.Image{Version: "stray"})
	require.NoError(t, err)
	all := []string{"--grace", "0s", "--max", "100%", "--max-per-repository", "100%"}
	require.Empty(t, s.prunes(all...))

	require.NoError(t, s.source.Untag("osism/tool", "2"))
	require.Empty(t, s.prunes(all...), "no run has seen it")
	s.planner("mirror").exits(0)
	require.Empty(t, s.prunes(), "within the grace period")
	require.Equal(t, []string{prefix + "/osism/tool:2"}, s.prunes(all...))
	require.Contains(t, s.planner("prune", "--grace", "0s").exits(1), "1 of 5 mirrored tags, more than --max 10%")
	require.Empty(t, s.prunes(append(all, "--keep", "2$")...))

	// Half of the list is missing by mistake.
	s.write("osism/other")
	require.Equal(t, []string{prefix + "/osism/tool:2"}, s.prunes(all...), "the rest was dropped by no plan")
	s.planner("mirror").exits(0)
	require.Empty(t, s.prunes())
	require.Contains(t, s.planner("prune", "--grace", "0s").exits(1), "3 of 5 mirrored tags")
	require.Equal(t, []string{prefix + "/osism/tool:1", prefix + "/osism/tool:2", prefix + "/osism/tool:3"}, s.prunes(all...))
	s.write("osism/tool", "osism/other")
	require.Equal(t, []string{prefix + "/osism/tool:2"}, s.prunes(all...), "the list has it again")
	s.writeList("containers: []\n")
	s.planner(append([]string{"prune"}, all...)...).exits(2)
	// The list is that of another mirror, by mistake.
	another := filepath.Join(t.TempDir(), "another.yml")
	require.NoError(t, os.WriteFile(another, []byte("containers: [nginx]\n"), 0o600))
	require.Contains(t, s.with("MIRROR_SOURCE_URL", another).planner("prune").exits(2), "mirrors "+s.list+" to ")
	s.write("osism/tool", "osism/other")
	s.source.Stop()
	require.Empty(t, s.prunes(all...), "the source does not answer")
}

// TestPruneFloor: if a source suddenly lists few tags, no tag of it is planned, even if it was
// dropped before.
func TestPruneFloor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2", "3", "4")
	s.write("osism/tool")
	s.planner("mirror").exits(0)
	s.with("LIMIT", "1").planner("mirror").exits(0) // by mistake
	for _, tag := range []string{"1", "2", "3"} {
		require.NoError(t, s.source.Untag("osism/tool", tag))
	}
	all := []string{"prune", "--grace", "0s", "--max", "100%", "--max-per-repository", "100%"}
	said := s.planner(all...).exits(0)
	require.Contains(t, said, "too few tags")
	require.Contains(t, said, "Nothing to delete")
}

// TestPruneKeep: tags that an entry keeps stay, even if the list loses the entry.
func TestPruneKeep(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "lts-1", "lts-2", "3", "4")
	s.push("osism/other", "lts-1", "2")
	other := "  - image: " + s.source.Host() + "/osism/other\n"
	entry := func(keep string) string { return "  - image: " + s.source.Host() + "/osism/tool\n" + keep }
	all := []string{"--grace", "0s", "--max", "100%", "--max-per-repository", "100%"}
	tagged := func(tags ...string) (names []string) {
		for _, tag := range tags {
			names = append(names, prefix+"/osism/"+tag)
		}
		return names
	}

	s.writeList("containers:\n" + entry("    keep: lts\n") + other)
	s.planner("mirror").exits(0)
	require.NoError(t, s.source.Untag("osism/tool", "lts-1"))
	require.NoError(t, s.source.Untag("osism/tool", "3"))
	require.NoError(t, s.source.Untag("osism/other", "lts-1"))
	s.planner("mirror").exits(0)
	require.Equal(t, tagged("other:lts-1", "tool:3"), s.prunes(all...))
	s.env["KEEP_TAGS"] = "4 lts"
	require.Equal(t, tagged("tool:3"), s.prunes(all...))
	delete(s.env, "KEEP_TAGS")

	s.writeList("containers:\n" + other) // by mistake
	s.planner("mirror").exits(0)
	require.Equal(t, tagged("other:lts-1", "tool:3", "tool:4"), s.prunes(all...))
	require.Equal(t, tagged("other:lts-1", "tool:3", "tool:4", "tool:lts-1", "tool:lts-2"), s.prunes(append(all, "--left-list")...))

	s.writeList("containers:\n" + entry("") + other)
	s.planner("mirror").exits(0)
	require.Equal(t, tagged("other:lts-1", "tool:3", "tool:lts-1"), s.prunes(all...), "the entry keeps it no more")
	s.writeList("containers:\n" + entry("    keep: '(?!a)'\n") + other)
	require.Contains(t, s.planner("prune").exits(2), "images.yml:3: keep[0]: ")
	require.Contains(t, s.planner("check").exits(2), "images.yml:3: keep[0]: ")
}
