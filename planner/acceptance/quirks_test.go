package acceptance

import (
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestUpstreamsThatMove: quay.io changes while it is listed, and refuses requests halfway. Nothing
// fails, nothing is lost, and tags that are not selected are not looked up.
func TestUpstreamsThatMove(t *testing.T) {
	t.Parallel()
	const page = 4
	var o *online
	var once sync.Map
	meanwhile := func(name string, number int) {
		if _, again := once.LoadOrStore(name, true); again || number != 1 {
			return
		}
		switch name {
		case "quirk/moved": // its digest is gone by the time it is copied
			old, err := o.Quay.Digest(name, "1")
			require.NoError(t, err)
			_, err = o.Quay.PushImage(name, "1", registrytest.Image{Version: "newer"})
			require.NoError(t, err)
			require.NoError(t, o.Quay.DeleteManifest(name, old))
		case "quirk/pushed": // the last tag of the page comes again on the next one
			_, err := o.Quay.PushImage(name, "new", registrytest.Image{Version: "new"})
			require.NoError(t, err)
		}
	}
	o = newOnline(t, []registrytest.Option{registrytest.WithQuayAPI(registrytest.BulkAPI{PageLimit: page, AfterPage: meanwhile})}, nil)
	o.env["CHUNK_SIZE"] = "1"
	for name, tags := range map[string][]string{"quirk/moved": {"1"}, "quirk/pushed": {"1", "2", "3", "4", "5"}} {
		for _, tag := range tags {
			_, err := o.Quay.PushImage(name, tag, registrytest.Image{Version: tag})
			require.NoError(t, err)
		}
	}
	huge := registrytest.Numbered("v1.%05d", 20_000)
	require.NoError(t, o.Quay.AddSynthetic("quirk/huge", registrytest.Synthetic{Tags: huge}))
	o.writeOnline("quay.io/quirk/moved", "quay.io/quirk/pushed", "{image: quay.io/quirk/huge, tags: {limit: 10}}")

	o.planner("mirror").exits(0)
	require.Empty(t, o.failed())
	require.Equal(t, run.Tally{Total: 1 + 5 + 10, Copied: 1 + 5 + 10}, o.status().Images)

	o.requireTags(o.Quay, "quirk/moved", "1")
	require.Equal(t, map[string]int{"1": 2}, count(o.Quay, of("quirk/moved", registrytest.All(heads, registrytest.Ref("1"))), reference),
		"to see that it has moved, and to copy what it is now")
	o.requireTags(o.Quay, "quirk/pushed", "1", "2", "3", "4", "5")
	o.requireTags(o.Quay, "quirk/huge", huge[len(huge)-10:]...)
	require.Equal(t, 3, o.Quay.Count(of("quirk/huge", listings)), "pages of 4, until there are 10")

	// This repository has a run of its own, because a 429 closes the whole registry.
	limited := registrytest.Synthetic{Tags: registrytest.Numbered("%d", 2*page)}
	require.NoError(t, o.Quay.AddSynthetic("quirk/limited", limited))
	require.NoError(t, o.destination.AddSynthetic(prefix+"/quirk/limited", limited))
	o.Quay.Inject(registrytest.Fault{
		Match: registrytest.All(registrytest.In("quirk/limited"), registrytest.Page(2)), Times: 1,
		Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}, Body: "<html><title>429 Too Many Requests</title></html>",
	})
	o.writeOnline("quay.io/quirk/limited")
	o.planner("mirror").exits(0)
	require.Equal(t, run.Tally{Total: 2 * page, Unchanged: 2 * page}, o.status().Images)
	require.Equal(t, 1, o.Quay.Count(registrytest.Answered(http.StatusTooManyRequests)))
	require.Equal(t, 4, o.Quay.Count(of("quirk/limited", listings)), "from the start again")
	require.Zero(t, o.Quay.Count(of("quirk/limited", heads)))
}
