package chunk

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestChanged: each tag that is put is reported once, with its earlier digest. Unchanged tags are
// not reported.
func TestChanged(t *testing.T) {
	b := newHarness(t)
	push := func(tag, version string) {
		t.Helper()
		_, err := b.from.PushImage(repository, tag, registrytest.Image{Version: version})
		require.NoError(t, err)
	}
	changed := func() map[string]change.Change {
		t.Helper()
		b.changes = nil
		require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(b.entry("")), Fresh: true}).Left)
		found := map[string]change.Change{}
		for _, c := range b.changes {
			require.NotContains(t, found, c.Tag.String())
			found[c.Tag.String()] = c
		}
		return found
	}
	push("1", "one")
	push("2", "two")
	push("latest", "two")
	found := changed()
	require.Len(t, found, 3)
	require.Equal(t, change.New, found["1"].Kind())
	require.Positive(t, found["1"].Bytes)
	require.Positive(t, found["2"].Bytes+found["latest"].Bytes)
	require.Zero(t, found["2"].Bytes*found["latest"].Bytes, "one transfer for both")

	push("latest", "one")
	push("3", "three")
	found = changed()
	require.Len(t, found, 2)
	require.Equal(t, change.New, found["3"].Kind())
	one, err := b.from.Digest(repository, "1")
	require.NoError(t, err)
	two, err := b.from.Digest(repository, "2")
	require.NoError(t, err)
	require.Equal(t, change.Moved, found["latest"].Kind())
	require.Equal(t, []string{two, one}, []string{found["latest"].From.String(), found["latest"].To.String()})
	b.tags = nil
	require.Empty(t, changed())

	// Every tag is reported as seen, with any outcome.
	states := map[string]run.Outcome{}
	for _, tag := range b.tags {
		states[tag.Name.String()] = tag.State
		require.Equal(t, tag.Source, tag.At)
		require.False(t, tag.Checked.IsZero())
	}
	require.Equal(t, map[string]run.Outcome{"1": run.Unchanged, "2": run.Unchanged, "3": run.Unchanged, "latest": run.Unchanged}, states)
}

// TestUnlisted: a tag has vanished if the whole listing does not have it, and HEAD denies it.
func TestUnlisted(t *testing.T) {
	b := newHarness(t)
	for _, tag := range []string{"1", "2", "3"} {
		_, err := b.from.PushImage(repository, tag, registrytest.Image{Version: tag})
		require.NoError(t, err)
	}
	vanished := func() (tags []string) {
		t.Helper()
		b.changes = nil
		require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(b.entry("")), Fresh: true}).Left)
		for _, c := range b.changes {
			if c.Kind() == change.Vanished {
				tags = append(tags, c.Tag.String())
			}
		}
		return tags
	}
	require.Empty(t, vanished())
	remove := b.from.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindTags), Status: 200, Body: `{"tags":["1","2"]}`})
	require.Empty(t, vanished(), "it is there, though it was left out")
	remove()
	require.NoError(t, b.from.Untag(repository, "3"))
	remove = b.from.Inject(registrytest.Fault{Match: registrytest.All(registrytest.Kinds(registrytest.KindManifestHead), registrytest.Ref("3")), Status: 503})
	require.Empty(t, vanished(), "nothing is known")
	remove()
	require.Equal(t, []string{"3"}, vanished())
	last := b.tags[len(b.tags)-1]
	for _, tag := range b.tags {
		if tag.State == run.Vanished {
			last = tag
		}
	}
	require.Equal(t, "3", last.Name.String())
	require.Equal(t, run.Vanished, last.State)

	// A listing that was not read to its end shows no vanished tags.
	b.tags = nil
	require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(b.entry("1")), Fresh: true}).Left)
	require.Empty(t, vanished())
}

// TestUnlistedByASourceThatIsAway: a proxy whose registry is away may answer a listing from its
// cache, and deny everything else. Nothing has vanished then.
func TestUnlistedByASourceThatIsAway(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1", "2", "3")
	require.Empty(t, b.do(t, b.entry("")).Left)
	b.changes = nil
	remove := b.from.Inject(registrytest.Fault{Match: lists, Status: 200, Body: `{"tags":["1","2"]}`})
	defer b.from.Inject(registrytest.Fault{Match: registrytest.All(manifests, registrytest.Ref("3")), Status: 404})()
	registries := &fleet{blame: func(int) bool { return true }}
	b.Registries = registries
	b.do(t, b.entry(""))
	require.Empty(t, b.changes)
	require.Equal(t, 1, registries.failed)
	remove()

	// A source that lists a tag again has it.
	registries.blame = nil
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, 1, b.images.Vanished)
}

// TestUnlistedByASourceWithoutHEAD: a source that denies everything with HEAD is asked with GET,
// which is a pull.
func TestUnlistedByASourceWithoutHEAD(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1", "2", "3")
	b.from.Inject(registrytest.Fault{Match: heads, Status: 404})
	require.Empty(t, b.do(t, b.entry("")).Left)
	b.changes = nil
	before := b.from.Pulls()
	b.from.Inject(registrytest.Fault{Match: lists, Status: 200, Body: `{"tags":["1","2"]}`})
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Empty(t, b.changes, "it is there, though it was left out")
	require.Equal(t, b.from.Pulls()-before, b.pulls)
}
