package chunk

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/deletion"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestBackups: when a tag is replaced, its old image gets a backup, and only the newest backups stay.
// A tag that is not replaced gets no backup.
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

// TestFailedBackup: a tag without a backup is not replaced, even if the answer to the put of the
// backup looks like success.
func TestFailedBackup(t *testing.T) {
	for _, status := range []int{http.StatusBadRequest, http.StatusCreated} {
		b := newHarness(t)
		entry := b.entry("")
		entry.Selection = selection.Selection{Backup: selection.Backup{Template: "{tag}-{date}", Keep: 1}}.Pointer()
		one, err := b.from.PushImage(repository, "latest", registrytest.Image{Version: "one"})
		require.NoError(t, err)
		require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(entry), Fresh: true}).Left)
		_, err = b.from.PushImage(repository, "latest", registrytest.Image{Version: "two"})
		require.NoError(t, err)
		b.advanced.Add(int64(time.Second))
		b.to.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool {
			return puts(r) && strings.HasPrefix(r.Reference, "latest-")
		}, Status: status})
		b.deliver(t, Delivery{Chunk: b.chunk(entry), Fresh: true})
		at, err := b.to.Digest(destination, "latest")
		require.NoError(t, err)
		require.Equal(t, one, at)
	}
}

// TestBackupsOutliveFailures: if a tag cannot be put several times, its older backups stay. A backup
// replaces no other image.
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

// TestBackupsAndTagsOfTheSource: a tag that the source has is not a backup. No backup replaces it, and
// it is not deleted as an old backup.
func TestBackupsAndTagsOfTheSource(t *testing.T) {
	for name, template := range map[string]string{"one name": "{tag}-old", "a name for each": "{tag}-{digest}"} {
		for _, same := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", the digest of the backup: ", same), func(t *testing.T) {
				b := newHarness(t)
				entry := b.entry("")
				entry.Selection = selection.Selection{Backup: selection.Backup{Template: template, Keep: 1}}.Pointer()
				deliver := func() run.Tally {
					t.Helper()
					b.deliver(t, Delivery{Chunk: b.chunk(entry), Fresh: true})
					return b.images
				}
				b.move(t, "latest", "one")
				deliver()
				one, err := b.to.Digest(destination, "latest")
				require.NoError(t, err)
				b.move(t, "latest", "two")
				deliver()
				backup := map[string]string{"{tag}-old": "latest-old", "{tag}-{digest}": "latest-" + reference.MustDigest(one).Hex()[:12]}[template]
				if same {
					require.NoError(t, b.from.Tag(repository, backup, one))
				} else {
					b.move(t, backup, "another")
				}
				deliver()
				own, err := b.from.Digest(repository, backup)
				require.NoError(t, err)
				for _, version := range []string{"three", "four"} {
					b.move(t, "latest", version)
					images := deliver()
					at, err := b.to.Digest(destination, backup)
					require.NoError(t, err)
					require.Equal(t, own, at)
					if template == "{tag}-old" {
						require.Equal(t, 1, images.Failed, "there is no name for the backup")
					} else {
						require.Zero(t, images.Failed)
					}
				}
			})
		}
	}
}

// TestBackupOfWhatIsThereNow: the backup has the image that the tag has when it is replaced, even if
// the tag had another one before the copy.
func TestBackupOfWhatIsThereNow(t *testing.T) {
	for name, first := range map[string]bool{"replaced": true, "new": false} {
		t.Run(name, func(t *testing.T) {
			b := newHarness(t)
			entry := b.entry("")
			entry.Selection = selection.Selection{Backup: selection.Backup{Template: "{tag}-{digest}", Keep: 3}}.Pointer()
			if first {
				b.move(t, "latest", "one")
				require.Empty(t, b.do(t, entry).Left)
			}
			b.push(t, "other") // so that the repository is there
			require.Empty(t, b.do(t, entry).Left)
			two := b.move(t, "latest", "two")
			gate := make(chan struct{})
			defer b.from.Inject(registrytest.Fault{Match: blobs, Gate: gate})()
			begun := b.from.Notify(blobs)
			done := make(chan struct{})
			go func() { // the destination changes during the copy
				defer close(done)
				<-begun
				_, err := b.to.PushImage(destination, "latest", registrytest.Image{Version: "by hand"})
				close(gate)
				require.NoError(t, err)
			}()
			b.changes = nil
			require.Empty(t, b.do(t, entry).Left)
			<-done
			byHand, err := b.to.PushImage(destination, "", registrytest.Image{Version: "by hand"})
			require.NoError(t, err)
			at, err := b.to.Digest(destination, "latest-"+reference.MustDigest(byHand).Hex()[:12])
			require.NoError(t, err)
			require.Equal(t, byHand, at)
			require.Equal(t, byHand, b.changes[0].From.String(), "what was replaced")
			at, err = b.to.Digest(destination, "latest")
			require.NoError(t, err)
			require.Equal(t, two, at)
		})
	}
}

// TestBackupOfAnIndex: the backup of an index has the images of the index.
func TestBackupOfAnIndex(t *testing.T) {
	b := newHarness(t)
	entry := b.entry("")
	entry.Selection = selection.Selection{Backup: selection.Backup{Template: "{tag}-{digest}", Keep: 1}}.Pointer()
	b.index(t, "one", "latest")
	one, err := b.from.Digest(repository, "latest")
	require.NoError(t, err)
	require.Empty(t, b.do(t, entry).Left)
	b.index(t, "two", "latest")
	require.Empty(t, b.do(t, entry).Left)
	backup := "latest-" + reference.MustDigest(one).Hex()[:12]
	at, err := b.to.Digest(destination, backup)
	require.NoError(t, err)
	require.Equal(t, one, at)
	require.NoError(t, b.to.Check(destination, backup))
}

// TestBackupsOfOthers: a tag that is not a backup is never deleted as one, whether it is older than the
// backups or took the name of one later.
func TestBackupsOfOthers(t *testing.T) {
	b := newHarness(t)
	entry := b.entry("")
	entry.Selection = selection.Selection{Backup: selection.Backup{Template: "{tag}-old", Keep: 1}}.Pointer()
	dated := entry
	dated.Selection = selection.Selection{Backup: selection.Backup{Template: "{tag}-{digest}", Keep: 1}}.Pointer()
	both := b.move(t, "latest", "one")
	b.move(t, "latest-old", "one") // the source's own
	require.Empty(t, b.do(t, entry).Left)
	two := b.move(t, "latest", "two")
	require.Empty(t, b.do(t, entry).Left)
	require.Zero(t, b.images.Failed)
	three := b.move(t, "latest", "three")
	require.Empty(t, b.do(t, dated).Left)
	b.move(t, "latest", "four")
	backup := "latest-" + reference.MustDigest(two).Hex()[:12]
	taken, err := b.to.PushImage(destination, backup, registrytest.Image{Version: "somebody's"})
	require.NoError(t, err)
	require.Empty(t, b.do(t, dated).Left)
	for tag, want := range map[string]string{"latest-old": both, backup: taken, "latest-" + reference.MustDigest(three).Hex()[:12]: three} {
		at, err := b.to.Digest(destination, tag)
		require.NoError(t, err, tag)
		require.Equal(t, want, at, tag)
	}
}

// TestNoBackupOfWhatCannotBeRead: an image that cannot be read gets no backup, because otherwise its
// tag could never be replaced.
func TestNoBackupOfWhatCannotBeRead(t *testing.T) {
	b := newHarness(t)
	entry := b.entry("")
	entry.Selection = selection.Selection{Backup: selection.Backup{Template: "{tag}-{digest}", Keep: 1}}.Pointer()
	one, err := b.to.PushImage(destination, "latest", registrytest.Image{Version: "broken"})
	require.NoError(t, err)
	two := b.move(t, "latest", "two")
	b.to.Inject(registrytest.Fault{Match: registrytest.All(gets, registrytest.Ref(one)), Status: 200, Body: "torn"})
	require.Empty(t, b.do(t, entry).Left)
	require.Empty(t, b.kept.records)
	at, err := b.to.Digest(destination, "latest")
	require.NoError(t, err)
	require.Equal(t, two, at)
}

// TestBackupsAtHarbor: an old backup is deleted alone, although Harbor's OCI API deletes no tag.
// Another tag of its digest stays.
func TestBackupsAtHarbor(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{
		"Harbor": {registrytest.WithDeletion(registrytest.DeletesLikeHarbor), registrytest.WithHarborAPI(registrytest.BulkAPI{})},
		"Quay":   {registrytest.WithDeletion(registrytest.DeletesLikeQuay)},
	} {
		t.Run(name, func(t *testing.T) {
			b := newHarnessBetween(t, registrytest.New(t), registrytest.New(t, options...))
			if b.Deletions = deletion.NewHosts(nil, []string{b.to.Host()}); name == "Quay" {
				b.Deletions = deletion.NewHosts([]string{b.to.Host()}, nil)
			}
			entry := b.entry("")
			entry.Selection = selection.Selection{Backup: selection.Backup{Template: "{tag}-{digest}", Keep: 1}}.Pointer()
			var first string
			for i, version := range []string{"one", "two", "three"} {
				digest, err := b.from.PushImage(repository, "latest", registrytest.Image{Version: version})
				require.NoError(t, err)
				require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(entry), Fresh: true}).Left)
				if i == 0 {
					first = digest
					require.NoError(t, b.to.Tag(destination, "by-others", digest))
				}
			}
			tags, err := b.to.Tags(destination)
			require.NoError(t, err)
			require.Len(t, tags, 3)
			require.NotContains(t, tags, "latest-"+reference.MustDigest(first).Hex()[:12])
			require.NoError(t, b.to.Check(destination, "by-others"))
		})
	}
}

// TestBackupsThatShareADigest: if the destination may delete all tags of a digest together, a
// backup stays as long as another tag has its digest.
func TestBackupsThatShareADigest(t *testing.T) {
	b := newHarnessBetween(t, registrytest.New(t), registrytest.New(t, registrytest.WithDeletion(registrytest.DeletesTogether)))
	entry := b.entry("")
	entry.Selection = selection.Selection{Backup: selection.Backup{Template: "{tag}-{digest}", Keep: 1}}.Pointer()
	for i, version := range []string{"one", "two", "three", "four"} {
		digest, err := b.from.PushImage(repository, "latest", registrytest.Image{Version: version})
		require.NoError(t, err)
		require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(entry), Fresh: true}).Left)
		if i == 0 {
			require.NoError(t, b.to.Tag(destination, "by-others", digest))
		}
	}
	require.NoError(t, b.to.Check(destination, "by-others"))
	tags, err := b.to.Tags(destination)
	require.NoError(t, err)
	require.Len(t, tags, 5, "%v", tags)
	require.NoError(t, b.to.Untag(destination, "by-others"))
	_, err = b.from.PushImage(repository, "latest", registrytest.Image{Version: "five"})
	require.NoError(t, err)
	require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(entry), Fresh: true}).Left)
	tags, err = b.to.Tags(destination)
	require.NoError(t, err)
	require.Len(t, tags, 2, "%v", tags)
}
