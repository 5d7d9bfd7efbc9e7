package compare_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

const (
	amd64 = "linux/amd64"
	arm64 = "linux/arm64"
	s390x = "linux/s390x"
)

// world is a list with some repositories, which are random. The same seed makes the same.
type world struct {
	*rand.Rand
	*site
	t        *testing.T
	name     string
	entries  []message.Repository
	versions int
	lacking  bool // some images may have no wanted platform
	fixed    bool // some tags are immutable

	accompanied bool // some have signatures or referrers
}

func newWorld(t *testing.T, seed uint64, s *site) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 0)), site: s, t: t, name: fmt.Sprintf("w%d", seed)}
	for i := range 1 + w.IntN(2) {
		w.repository(fmt.Sprintf("%s/r%d", w.name, i))
	}
	return w
}

// one chooses one of several.
func one[T any](w *world, of ...T) T { return of[w.IntN(len(of))] }

// chance is true n times of ten.
func (w *world) chance(n int) bool { return w.IntN(10) < n }

// repository makes a repository, what the destination has of it, and its entries.
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

// content pushes an image or an index to the source, and returns what may be tagged of it.
func (w *world) content(name string) []string {
	w.versions++
	version := fmt.Sprintf("%s-%d", name, w.versions)
	if w.chance(4) {
		digest, err := w.from.PushImage(name, "", registrytest.Image{Version: version, Platform: one(w, amd64, arm64), Docker: w.chance(3)})
		require.NoError(w.t, err)
		return []string{digest}
	}
	index := registrytest.MultiPlatform(version, one(w, []string{amd64}, []string{amd64, arm64}, []string{arm64, s390x}, []string{s390x})...)
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

// destination gives the destination some of what the source has, under the same tags or
// others or none, and something else.
func (w *world) destination(name string, tags, digests []string) {
	if w.chance(3) {
		return
	}
	// A repository without tags counts as empty, whatever it has without them.
	_, err := w.to.PushImage(name, "kept", registrytest.Image{Version: "kept"})
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
			_, err := w.to.PushImage(name, tag, registrytest.Image{Version: fmt.Sprintf("old-%d", w.versions)})
			require.NoError(w.t, err)
		}
	}
}

// bring copies a manifest and what is below it, or just some platforms of it, as an earlier
// run has done. Without a tag, it is what a registry has until it collects garbage.
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

// list adds entries for the repository, with one choice of contents.
func (w *world) list(name string, tags, digests []string) {
	contents := selection.Selection{
		Platforms:           one(w, nil, nil, []string{amd64}, []string{amd64, arm64}, []string{s390x}),
		WithoutAttestations: w.chance(2),
		Referrers:           w.chance(4),
		Immutable:           one(w, nil, nil, nil, []string{".*"}, []string{"0", "2.2"}),
	}
	w.fixed = w.fixed || len(contents.Immutable) > 0
	w.lacking = w.lacking || len(contents.Platforms) > 0
	entry := message.Repository{
		Source: reference.MustRepository(w.from.Host() + "/" + name), Destination: reference.MustRepository(w.to.Host() + "/" + name),
	}
	add := func(s selection.Selection, pin func(*message.Repository)) {
		r := entry
		s.Platforms, s.WithoutAttestations, s.Referrers, s.Immutable = contents.Platforms, contents.WithoutAttestations, contents.Referrers, contents.Immutable
		r.Selection = s.Pointer()
		pin(&r)
		w.entries = append(w.entries, r)
	}
	none := func(*message.Repository) {}
	switch w.IntN(6) {
	case 0, 1:
		add(selection.Selection{}, none)
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
