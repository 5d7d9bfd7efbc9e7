package compare_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

const (
	amd64 = "linux/amd64"
	arm64 = "linux/arm64"
	s390x = "linux/s390x"
)

// base is the layer of images whose layers do not matter. All share it, so that it is seldom copied.
var base = []registrytest.Layer{{Seed: "base", Size: 1}}

// world is a list with a few random repositories. The same seed makes the same world.
type world struct {
	*rand.Rand
	*site
	t        *testing.T
	name     string
	entries  []message.Repository
	versions int
	lacking  bool // some images may have no wanted platform
	fixed    bool // some tags are immutable
	seen     map[reference.Repository]map[reference.Tag]resolve.Sighting

	accompanied bool // some have signatures or referrers
	distrusting bool // a policy rejects some digests
}

func newWorld(t *testing.T, seed uint64, s *site) *world {
	w := &world{
		Rand: rand.New(rand.NewPCG(seed, 0)), site: s, t: t, name: fmt.Sprintf("w%d", seed),
		seen: map[reference.Repository]map[reference.Tag]resolve.Sighting{},
	}
	for i := range 1 + w.IntN(2) {
		w.repository(fmt.Sprintf("%s/r%d", w.name, i))
	}
	// Only a pull shows which companions a policy rejects with an image, and whether a rejected
	// image has a wanted platform.
	w.distrusting = !w.accompanied && !w.lacking && !w.fixed && w.chance(8)
	return w
}

// one chooses one of several.
func one[T any](w *world, of ...T) T { return of[w.IntN(len(of))] }

// chance is true n times of ten.
func (w *world) chance(n int) bool { return w.IntN(10) < n }

// repository makes a repository with its state at the destination, and its entries.
func (w *world) repository(name string) {
	var digests []string
	for range 1 + w.IntN(3) {
		digests = append(digests, w.content(name)...)
	}
	var tags []string
	for i := range 1 + w.IntN(5) {
		tag := fmt.Sprintf("%d.%d", i%3, i)
		require.NoError(w.t, w.from.Tag(name, tag, one(w, digests...)))
		tags = append(tags, tag)
	}
	w.accompany(name, digests)
	w.destination(name, tags, digests)
	w.list(name, tags, digests)
}

// content pushes an image or an index to the source, and returns the digests in it that may get a
// tag.
func (w *world) content(name string) []string {
	w.versions++
	version := fmt.Sprintf("%s-%d", name, w.versions)
	if w.chance(4) {
		digest, err := w.from.PushImage(name, "", registrytest.Image{Version: version, Layers: base, Platform: one(w, amd64, arm64), Docker: w.chance(3)})
		require.NoError(w.t, err)
		return []string{digest}
	}
	index := registrytest.MultiPlatform(version, one(w, []string{amd64}, []string{amd64, arm64}, []string{arm64, s390x}, []string{s390x})...)
	for i := range index.Images {
		index.Images[i].Layers = base
	}
	index.Attestations = w.chance(5)
	index.Docker = !index.Attestations && w.chance(3)
	if w.chance(2) {
		index = registrytest.Index{Indexes: []registrytest.Index{index}}
	}
	digest, err := w.from.PushIndex(name, "", index)
	require.NoError(w.t, err)
	if w.chance(6) {
		return []string{digest}
	}
	children, err := w.from.Children(name, digest)
	require.NoError(w.t, err)
	return []string{digest, one(w, children...).Digest.String()}
}

// accompany gives some contents signatures and referrers.
func (w *world) accompany(name string, digests []string) {
	for w.chance(3) {
		w.accompanied = true
		subject := one(w, digests...)
		if children, err := w.from.Children(name, subject); err == nil && len(children) > 0 && w.chance(4) {
			subject = one(w, children...).Digest.String()
		}
		var err error
		if w.chance(5) {
			_, err = w.from.PushSignature(name, subject)
		} else {
			var referrer string
			referrer, err = w.from.PushReferrer(name, subject, "a/sbom")
			if err == nil && w.chance(3) {
				_, err = w.from.PushReferrer(name, referrer, "a/signature")
			}
		}
		require.NoError(w.t, err)
	}
}

// destination copies some of the source's content to the destination, under the same tags, other
// tags or none, and pushes something else.
func (w *world) destination(name string, tags, digests []string) {
	if w.chance(3) {
		return
	}
	// A repository without tags counts as empty, even if it has manifests.
	_, err := w.to.PushImage(name, "kept", registrytest.Image{Version: "kept", Layers: base})
	require.NoError(w.t, err)
	for _, tag := range tags {
		switch w.IntN(5) {
		case 0:
			digest, err := w.from.Digest(name, tag)
			require.NoError(w.t, err)
			w.bring(name, digest, tag)
		case 1:
			w.bring(name, one(w, digests...), tag)
		case 2:
			w.bring(name, one(w, digests...), one(w, "", "other", "3.3"))
		case 3:
			w.versions++
			_, err := w.to.PushImage(name, tag, registrytest.Image{Version: fmt.Sprintf("old-%d", w.versions), Layers: base})
			require.NoError(w.t, err)
		}
	}
}

// bring copies a manifest with everything below it, or just some platforms of it, as an earlier run
// would have done. Without a tag, it stays until the registry collects garbage.
func (w *world) bring(name, digest, tag string) {
	source, destination := reference.MustRepository(w.from.Host()+"/"+name), reference.MustRepository(w.to.Host()+"/"+name)
	m := mirrortest.New(w.t, w.client, nil)
	wanted := platform.Wanted{Platforms: one(w, nil, nil, []string{amd64}, []string{amd64, arm64})}
	copied, err := m.CopyImage(w.t.Context(), source, destination, registry.Descriptor{Digest: reference.MustDigest(digest)}, wanted)
	if errors.Is(err, platform.ErrNoPlatform) {
		return
	}
	require.NoError(w.t, err)
	const untagged = "untagged"
	require.NoError(w.t, m.Tag(w.t.Context(), mirror.Target{Repository: destination, Tag: reference.MustTag(cmp.Or(tag, untagged))}, copied.Digest))
	if tag == "" {
		require.NoError(w.t, w.to.Untag(name, untagged))
	}
}

// list adds entries for the repository. The contents are chosen once for all of them.
func (w *world) list(name string, tags, digests []string) {
	contents := selection.Selection{
		Platforms:           one(w, nil, nil, []string{amd64}, []string{amd64, arm64}, []string{s390x}),
		WithoutAttestations: w.chance(2),
		Referrers:           w.chance(4),
		Immutable:           one(w, nil, nil, nil, []string{".*"}, []string{"0", "2.2"}),
	}
	w.fixed = w.fixed || len(contents.Immutable) > 0
	w.lacking = w.lacking || len(contents.Platforms) > 0
	contents.Backup = one(w, selection.Backup{}, selection.Backup{Template: "{tag}-{digest}", Keep: 2})
	contents.MinAge = selection.Age(one(w, 0, 0, 0, 24*time.Hour))
	newer := selection.Age(one(w, 0, 0, 0, 36*time.Hour))
	entry := message.Repository{
		Source: reference.MustRepository(w.from.Host() + "/" + name), Destination: reference.MustRepository(w.to.Host() + "/" + name),
	}
	add := func(s selection.Selection, pin func(*message.Repository)) {
		r := entry
		s.Platforms, s.WithoutAttestations, s.Referrers, s.Immutable = contents.Platforms, contents.WithoutAttestations, contents.Referrers, contents.Immutable
		s.MinAge, s.Backup = contents.MinAge, contents.Backup
		r.Selection = s.Pointer()
		pin(&r)
		w.entries = append(w.entries, r)
	}
	w.sight(name, entry.Source, tags, contents.MinAge == 0)
	none := func(*message.Repository) {}
	switch w.IntN(6) {
	case 0, 1:
		add(selection.Selection{NewerThan: newer, MinTags: one(w, 0, 1)}, none)
	case 2:
		add(selection.Selection{Include: []string{one(w, "0", "1", ".*1")}}, none)
		add(selection.Selection{Limit: 1 + w.IntN(3)}, none)
	case 3:
		add(selection.Selection{List: tags[:1+w.IntN(len(tags))]}, none)
		add(selection.Selection{List: tags[w.IntN(len(tags)):]}, none)
	default:
		for _, tag := range tags[:1+w.IntN(len(tags))] {
			add(selection.Selection{}, func(r *message.Repository) { r.Tag = reference.MustTag(tag) })
		}
		if w.chance(5) {
			add(selection.Selection{}, func(r *message.Repository) { r.Digest = reference.MustDigest(one(w, digests...)) })
		}
	}
}

// sight gives some tags an age, as earlier runs have noted it. Some have moved since. (With a
// minimum age, a tag that has moved takes a place in a limit until a run notices that.)
func (w *world) sight(name string, source reference.Repository, tags []string, moved bool) {
	w.seen[source] = map[reference.Tag]resolve.Sighting{}
	for _, tag := range tags {
		digest, err := w.from.Digest(name, tag)
		require.NoError(w.t, err)
		if moved && w.chance(2) {
			digest = "sha256:" + strings.Repeat("0", 64)
		}
		if w.chance(7) {
			w.seen[source][reference.MustTag(tag)] = resolve.Sighting{Digest: reference.MustDigest(digest), Since: time.Now().Add(-one(w, time.Hour, 30*time.Hour, 48*time.Hour))}
		}
	}
}

// distrust is a policy that rejects a third of all digests.
type distrust struct{}

// Verify implements mirror.Trust.
func (distrust) Verify(_ context.Context, _ reference.Repository, digest reference.Digest, tags []reference.Tag, _ func(context.Context) (registry.Manifest, error)) (pulls int, errs []error) {
	errs = make([]error, len(tags))
	if digest.Hex()[0] < '6' {
		for i := range errs {
			errs[i] = policy.ErrRejected
		}
	}
	return 0, errs
}
