package chunk

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestBackups: what a tag had stays under another tag, at most so many times, and nothing is
// done about a tag that stays as it is.
func TestBackups(t *testing.T) {
	b := newHarness(t)
	entry := b.entry("")
	entry.Selection = selection.Selection{Backup: selection.Backup{Template: "{tag}-{digest}", Keep: 2}}.Pointer()
	deliver := func() run.Tally {
		t.Helper()
		require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(entry), Fresh: true}).Left)
		return b.images
	}
	push := func(version string) string {
		t.Helper()
		digest, err := b.from.PushImage(repository, "latest", registrytest.Image{Version: version})
		require.NoError(t, err)
		return digest
	}
	name := func(digest string) string { return "latest-" + reference.MustDigest(digest).Hex()[:12] }
	tags := func() []string {
		t.Helper()
		all, err := b.to.Tags(destination)
		require.NoError(t, err)
		return all
	}
	one := push("one")
	deliver()
	require.Equal(t, []string{"latest"}, tags())
	b.to.ResetRequests()
	deliver()
	require.Equal(t, 1, b.to.Count(manifests), "nothing is asked about backups")

	two := push("two")
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, deliver())
	require.ElementsMatch(t, []string{"latest", name(one)}, tags())
	kept, err := b.to.Digest(destination, name(one))
	require.NoError(t, err)
	require.Equal(t, one, kept)

	three := push("three")
	deliver()
	push("four")
	deliver()
	require.ElementsMatch(t, []string{"latest", name(two), name(three)}, tags(), "the oldest one is deleted")

	// A destination that deletes no tag keeps all of them.
	b.to.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool { return r.Method == http.MethodDelete }, Status: http.StatusMethodNotAllowed})
	push("five")
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, deliver())
	require.Len(t, tags(), 4)
}

// TestFailedBackup: without its backup, a tag is not replaced.
func TestFailedBackup(t *testing.T) {
	b := newHarness(t)
	entry := b.entry("")
	entry.Selection = selection.Selection{Backup: selection.Backup{Template: "{tag}-{date}", Keep: 1}}.Pointer()
	one, err := b.from.PushImage(repository, "latest", registrytest.Image{Version: "one"})
	require.NoError(t, err)
	deliver := func() []message.Repository {
		t.Helper()
		return b.deliver(t, Delivery{Chunk: b.chunk(entry), Fresh: true}).Left
	}
	require.Empty(t, deliver())
	_, err = b.from.PushImage(repository, "latest", registrytest.Image{Version: "two"})
	require.NoError(t, err)
	b.advanced.Add(int64(time.Second))
	b.to.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool {
		return puts(r) && r.Reference != "latest" && r.Reference[:7] == "latest-"
	}, Status: http.StatusBadRequest})
	deliver()
	require.Equal(t, 1, b.images.Failed)
	at, err := b.to.Digest(destination, "latest")
	require.NoError(t, err)
	require.Equal(t, one, at)
}

// TestBackupsOutliveFailures: a tag that cannot be put again and again pushes no older backup
// out, and no backup takes the place of something else.
func TestBackupsOutliveFailures(t *testing.T) {
	b := newHarness(t)
	entry := b.entry("")
	entry.Selection = selection.Selection{Backup: selection.Backup{Template: "{tag}-{date}", Keep: 1}}.Pointer()
	deliver := func() run.Tally {
		t.Helper()
		b.advanced.Add(int64(time.Second))
		b.deliver(t, Delivery{Chunk: b.chunk(entry), Fresh: true})
		return b.images
	}
	for _, version := range []string{"one", "two"} {
		_, err := b.from.PushImage(repository, "latest", registrytest.Image{Version: version})
		require.NoError(t, err)
		deliver()
	}
	before, err := b.to.Tags(destination)
	require.NoError(t, err)
	require.Len(t, before, 2)
	_, err = b.from.PushImage(repository, "latest", registrytest.Image{Version: "three"})
	require.NoError(t, err)
	remove := b.to.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool { return puts(r) && r.Reference == "latest" }, Status: http.StatusBadRequest})
	for range 3 {
		require.Equal(t, 1, deliver().Failed)
	}
	during, err := b.to.Tags(destination)
	require.NoError(t, err)
	require.Subset(t, during, before)
	require.Len(t, during, 3, "one backup of what is to be replaced")
	remove()
	images := deliver()
	require.Equal(t, 1, images.Copied+images.Tagged)
	after, err := b.to.Tags(destination)
	require.NoError(t, err)
	require.Len(t, after, 2)

	entry.Selection = selection.Selection{Backup: selection.Backup{Template: "{tag}-old", Keep: 1}}.Pointer()
	other, err := b.to.PushImage(destination, "latest-old", registrytest.Image{Version: "somebody's"})
	require.NoError(t, err)
	_, err = b.from.PushImage(repository, "latest", registrytest.Image{Version: "four"})
	require.NoError(t, err)
	require.Equal(t, 1, deliver().Failed)
	at, err := b.to.Digest(destination, "latest-old")
	require.NoError(t, err)
	require.Equal(t, other, at)
}
