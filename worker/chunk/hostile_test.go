package chunk

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// hostileNames are names that a source can list as tags. A proxy that removes dot segments would
// put the first one over victim/app:latest.
var hostileNames = []string{
	"../../../../victim/app/manifests/latest", "../../../victim/app/manifests/latest", "..", ".", "", "-1", "a/b", "a b", "a:b", "a@b", "a?b", "a#b", "a%2e%2e%2fb", "latest\n", "a\x00b",
	"\x1b[2J\x1b[31mred", "\u202egnp", "ä", "../../../../v2/victim/app/manifests/latest", strings.Repeat("a", 129), strings.Repeat("../", 4000), "+", "~", ";", "latest ", " latest",
}

// hostile is a harness whose source lists invalid tags. Its destination is behind a front, and has an
// image of another client.
func hostile(t *testing.T, bulk bool) (b *harness, entry message.Repository, victim string) {
	t.Helper()
	b = newHarnessBetween(t, registrytest.New(t, registrytest.WithQuayAPI(registrytest.BulkAPI{PageLimit: 7})), registrytest.New(t))
	front := registrytest.NewFront(t, b.to)
	insecure := []string{b.from.Host(), front}
	client := registry.NewClient(registry.Options{Insecure: insecure, Transport: registrytest.NewTransport(hurry, b.from, b.to)})
	options := listing.Options{Registry: client}
	if bulk {
		options.QuayHosts = []string{b.from.Host()}
	}
	b.Resolver = &resolve.Upstream{Registry: client, Listing: listing.New(options)}
	b.Mirror = mirrortest.New(t, client, engine(t, insecure, 10*time.Second))
	victim, err := b.to.PushImage("victim/app", "latest", registrytest.Image{Version: "the victim's"})
	require.NoError(t, err)
	for _, tag := range []string{"1", "2", "3"} {
		b.move(t, tag, tag)
	}
	names := hostileNames
	if bulk { // without a name, it is not a listing
		names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" })
	}
	require.NoError(t, b.from.Lie(repository, "1", names...))
	entry = b.entry("")
	entry.Destination = reference.MustRepository(front + "/" + destination)
	return b, entry, victim
}

// untouched requires that only the mirror's own repository was written to.
func (b *harness) untouched(t *testing.T, victim string) {
	t.Helper()
	now, err := b.to.Digest("victim/app", "latest")
	require.NoError(t, err)
	require.Equal(t, victim, now)
	for _, r := range b.to.Requests() {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			require.Equal(t, destination, r.Repository, "%s %s", r.Method, r.Path)
		}
	}
}

// TestHostileTags: a repository with invalid tags fails, with an error that quotes them. Its other
// tags are mirrored.
func TestHostileTags(t *testing.T) {
	for _, bulk := range []bool{false, true} {
		t.Run(fmt.Sprint("bulk ", bulk), func(t *testing.T) {
			b, entry, victim := hostile(t, bulk)
			require.Empty(t, b.do(t, entry).Left)
			b.mirrored(t, "1", "2", "3")
			b.untouched(t, victim)
			require.Equal(t, !bulk, b.from.Count(lists) > 0)
			require.Equal(t, 4, b.images.Total)
			require.Equal(t, 1, b.images.Failed)
			failed := b.kept.only(t)
			require.Equal(t, entry.Source.String(), failed.Source)
			require.Equal(t, entry.Destination.String(), failed.Destination)
			require.Contains(t, failed.Reason, `invalid tag: "`)
			require.Contains(t, failed.Reason, " and 1 more; expected up to 128 letters, digits")
			require.Equal(t, -1, strings.IndexFunc(failed.Reason, func(c rune) bool { return c < ' ' || c > '~' && c != '…' }), failed.Reason)

			// The next run fails the same way; a run without these tags does not.
			require.Empty(t, b.do(t, entry).Left)
			b.kept.only(t)
			require.NoError(t, b.from.Lie(repository, "1"))
			require.Empty(t, b.do(t, entry).Left)
			require.Empty(t, b.kept.records)
		})
	}
}

// TestHostileTagsAreNotWanted: invalid tags that the selection leaves out are not failures.
func TestHostileTagsAreNotWanted(t *testing.T) {
	b, entry, victim := hostile(t, false)
	entry.Selection = &selection.Selection{Include: []string{`\d`}}
	require.Empty(t, b.do(t, entry).Left)
	b.mirrored(t, "1", "2", "3")
	b.untouched(t, victim)
	require.Empty(t, b.kept.records)
}
