package outage_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outage"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestRepositoriesFailByThemselves: if an image of another repository works, a few failing
// repositories do not close the registry.
func TestRepositoriesFailByThemselves(t *testing.T) {
	for name, fault := range map[string]registrytest.Fault{
		"403":       {Status: 403},
		"401":       {Status: 401},
		"immutable": {Status: 403, Body: `{"errors":[{"code":"DENIED","message":"the tag is immutable"}]}`},
		"500":       {Status: 500},
		"read-only": {Status: 405},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := []string{"a", "b", "c", "d", "e"}
			r := pushed(t, append(broken, "fine")...)
			w := newWorker(t, brokertest.Embedded(t), r)
			digest, err := r.Digest("fine", "1")
			require.NoError(t, err)
			w.Known(reference.MustRepository("source.example.com/fine"), at(r, "fine"), reference.MustDigest(digest))
			fault.Match = func(q registrytest.Request) bool {
				return q.Method != http.MethodGet && q.Method != http.MethodHead && q.Repository != "fine"
			}
			r.Inject(fault)
			for range 3 {
				for _, repository := range broken {
					err := w.put(t, r, repository, "2")
					require.Error(t, err)
					require.False(t, closed(err))
					require.NoError(t, w.Blames(t.Context(), err))
				}
			}
			require.NoError(t, w.put(t, r, "fine", "2"))
			require.LessOrEqual(t, r.Count(registrytest.All(puts, registrytest.In("fine"))), len(broken)+1, "it is tried once for each of them")
		})
	}
}

// TestRecorded: a worker that has mirrored nothing yet tests a registry with what others have mirrored
// there. Images of the repositories that fail are of no use, and neither is one that is gone.
func TestRecorded(t *testing.T) {
	for name, test := range map[string]struct {
		recorded []string
		err      error
		want     bool // the registry is closed
	}{
		"another works":                    {[]string{"fine"}, nil, false},
		"one is gone":                      {[]string{"gone", "fine"}, nil, false},
		"none":                             {nil, nil, true},
		"all are refused":                  {[]string{"e"}, nil, true},
		"some, and the broker fails then":  {[]string{"fine"}, errors.New("no broker"), false},
		"none, because the broker is away": {nil, errors.New("no broker"), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := pushed(t, "a", "b", "c", "d", "e", "fine")
			w := newWorker(t, brokertest.Embedded(t), r)
			asked := 0
			w.Recorded = func(_ context.Context, registry string, without map[reference.Repository]bool, _ int) ([]outage.Specimen, error) {
				asked++
				require.Equal(t, r.Host(), registry)
				for _, repository := range []string{"a", "b", "c"} {
					require.Contains(t, without, at(r, repository))
				}
				var all []outage.Specimen
				for _, repository := range test.recorded {
					digest := reference.DigestOf(nil).String()
					if repository != "gone" {
						var err error
						digest, err = r.Digest(repository, "1")
						require.NoError(t, err)
					}
					all = append(all, outage.Specimen{
						Source: reference.MustRepository("source.example.com/" + repository), Destination: at(r, repository), Digest: reference.MustDigest(digest),
					})
				}
				return all, test.err
			}
			r.Inject(registrytest.Fault{Match: func(q registrytest.Request) bool { return q.Method == http.MethodPut && q.Repository != "fine" }, Status: 403})
			var err error
			for _, repository := range []string{"a", "b", "c", "d"} {
				err = w.put(t, r, repository, "2")
			}
			require.Equal(t, test.want, closed(err), "%v", err)
			require.Equal(t, 1, asked)
		})
	}
}

// TestFullOfWhatIsNew: a full registry accepts images that it already has. So several repositories
// must fail before it counts as full.
func TestFullOfWhatIsNew(t *testing.T) {
	r := pushed(t, "a", "b", "c", "fine")
	w := newWorker(t, brokertest.Embedded(t), r)
	digest, err := r.Digest("fine", "1")
	require.NoError(t, err)
	w.Known(reference.MustRepository("source.example.com/fine"), at(r, "fine"), reference.MustDigest(digest))
	remove := r.Inject(registrytest.Fault{Match: func(q registrytest.Request) bool { return q.Method == http.MethodPut && q.Repository != "fine" },
		Status: 403, Body: `{"errors":[{"code":"DENIED","message":"quota exceeded"}]}`})
	for _, repository := range []string{"a", "b"} {
		for _, tag := range registrytest.Numbered("%d", 5) {
			require.False(t, closed(w.put(t, r, repository, tag)))
		}
	}
	require.True(t, closed(w.put(t, r, "c", "2")))
	remove()
	require.Eventually(t, func() bool { return w.put(t, r, "c", "2") == nil }, patience, tick)
	require.Nil(t, w.Budget.IsAway(r.Host()))
}

// TestRecordedAtSource: the same at a source, which refuses some repositories.
func TestRecordedAtSource(t *testing.T) {
	for name, recorded := range map[string]bool{"another works": true, "none": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := pushed(t, "a", "b", "c", "fine"), registrytest.New(t)
			same := registrytest.Image{Layers: []registrytest.Layer{{Seed: "same", Size: 1 << 10}}}
			_, err := from.PushImage("fine", "1", same)
			require.NoError(t, err)
			digest, err := to.PushImage("mirror/fine", "1", same)
			require.NoError(t, err)
			w := newWorker(t, brokertest.Embedded(t), from, to)
			w.Recorded = func(context.Context, string, map[reference.Repository]bool, int) ([]outage.Specimen, error) {
				if !recorded {
					return nil, nil
				}
				return []outage.Specimen{{Source: at(from, "fine"), Destination: at(to, "mirror/fine"), Digest: reference.MustDigest(digest)}}, nil
			}
			from.Inject(registrytest.Fault{Match: func(q registrytest.Request) bool { return manifests(q) && q.Repository != "fine" }, Status: 403})
			for _, repository := range []string{"a", "b", "c"} {
				_, err = w.client.Head(t.Context(), at(from, repository), reference.MustTag("1"))
				require.ErrorIs(t, err, registry.ErrDenied)
			}
			require.Equal(t, !recorded, closed(err), "%v", err)
		})
	}
}
