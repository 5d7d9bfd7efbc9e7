package chunk

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// gone is a digest that no registry has.
var gone = "sha256:" + strings.Repeat("1", 64)

// TestEveryTag: with and without REFERRERS, all tags of a repository without a selection are mirrored,
// including companions without their image, and images with the name of a companion.
func TestEveryTag(t *testing.T) {
	for name, s := range map[string]selection.Selection{"plain": {}, "referrers": withReferrers} {
		for api, options := range map[string][]registrytest.Option{"API": {registrytest.WithReferrersAPI(0)}, "": nil} {
			t.Run(name+api, func(t *testing.T) {
				b := newHarnessBetween(t, registrytest.New(t, options...), registrytest.New(t))
				image := b.move(t, "1", "1")
				index := b.index(t, "2", "2")
				children, err := b.from.Children(repository, index)
				require.NoError(t, err)
				for _, digest := range []string{image, index, children[0].Digest.String(), gone} {
					_, err := b.from.PushSignature(repository, digest)
					require.NoError(t, err)
				}
				hex := image[len("sha256:"):]
				b.move(t, "sha256-"+strings.Repeat("2", 64), "an image")
				b.index(t, "3", "sha256-"+strings.Repeat("3", 64))
				b.move(t, "sha256-"+hex+".sbom", "an image")
				b.refer(t, image, sbom)

				tags, err := b.from.Tags(repository)
				require.NoError(t, err)
				require.Empty(t, b.do(t, b.selected("", s)).Left)
				require.Equal(t, len(tags), b.images.Total)
				require.Equal(t, len(tags), b.images.Copied+b.images.Tagged)
				b.mirrored(t, tags...)

				b.reset()
				require.Empty(t, b.do(t, b.selected("", s)).Left)
				require.Equal(t, run.Tally{Total: len(tags), Unchanged: len(tags)}, b.images)
				require.Zero(t, b.from.Pulls())
				require.Zero(t, b.to.Count(puts))
			})
		}
	}
}

// TestListOfReferrers: the destination's own referrers stay in the list, new ones of the source are
// added, and an unchanged list is not put again.
func TestListOfReferrers(t *testing.T) {
	b := newHarness(t)
	image := b.move(t, "1", "1")
	tag := "sha256-" + image[len("sha256:"):]
	first := b.refer(t, image, sbom)
	require.Empty(t, b.do(t, b.selected("", withReferrers)).Left)
	b.mirrored(t, "1", tag)
	own, err := b.to.PushReferrer(destination, image, "a/own")
	require.NoError(t, err)

	quiet := func() {
		t.Helper()
		b.reset()
		require.Empty(t, b.do(t, b.selected("", withReferrers)).Left)
		require.Equal(t, run.Tally{Total: 2, Unchanged: 2}, b.images)
		require.Zero(t, b.from.Pulls())
		require.Zero(t, b.to.Count(puts))
	}
	listed := func() (digests []string) {
		t.Helper()
		require.NoError(t, b.to.Check(destination, tag))
		children, err := b.to.Children(destination, tag)
		require.NoError(t, err)
		for _, child := range children {
			digests = append(digests, child.Digest.String())
		}
		slices.Sort(digests)
		return digests
	}
	require.Empty(t, b.do(t, b.selected("", withReferrers)).Left)
	require.Equal(t, slices.Sorted(slices.Values([]string{first, own})), listed())
	quiet()

	second := b.refer(t, image, signature)
	require.Empty(t, b.do(t, b.selected("", withReferrers)).Left)
	require.Equal(t, slices.Sorted(slices.Values([]string{first, second, own})), listed())
	quiet()
}

// TestCompanionsOfEveryManifest: the companions of a platform's manifest and of companions are
// mirrored, too, with any selection of tags. A run without changes costs no pull.
func TestCompanionsOfEveryManifest(t *testing.T) {
	for name, test := range map[string]struct {
		tag string
		selection.Selection
	}{
		"filter":               {"", selection.Selection{Include: []string{"v"}}},
		"filter and referrers": {"", selection.Selection{Include: []string{"v"}, Referrers: true}},
		"limit":                {"", selection.Selection{Limit: 1}},
		"list":                 {"", selection.Selection{List: []string{"v2"}}},
		"tag and referrers":    {"v2", selection.Selection{Referrers: true}},
		"platforms":            {"", selection.Selection{List: []string{"v2"}, Platforms: []string{"linux/amd64"}}},
	} {
		for _, lists := range []bool{true, false} {
			if !lists && test.Selection.List == nil && test.tag == "" {
				continue
			}
			t.Run(name, func(t *testing.T) {
				b := newHarness(t)
				b.move(t, "1", "1")
				index := b.index(t, "2", "v2")
				children, err := b.from.Children(repository, index)
				require.NoError(t, err)
				sign := func(digest string) string {
					t.Helper()
					_, err := b.from.PushSignature(repository, digest)
					require.NoError(t, err)
					return registrytest.SignatureTag(digest)
				}
				child := sign(children[0].Digest.String())
				signature, err := b.from.Digest(repository, child)
				require.NoError(t, err)
				signed, whole := sign(signature), sign(index)
				other := sign(gone)
				if !lists {
					b.from.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindTags), Status: 403})
				}
				entry := b.selected(test.tag, test.Selection)
				require.Empty(t, b.do(t, entry).Left)
				require.Equal(t, run.Tally{Total: 4, Copied: 4}, b.images)
				b.mirrored(t, child, signed, whole)
				tags, err := b.to.Tags(destination)
				require.NoError(t, err)
				require.NotContains(t, tags, other)

				b.reset()
				require.Empty(t, b.do(t, entry).Left)
				require.Equal(t, run.Tally{Total: 4, Unchanged: 4}, b.images)
				require.Zero(t, b.from.Pulls())
				if lists {
					require.Equal(t, 1, b.from.Count(registrytest.Kinds(registrytest.KindTags)))
				}
			})
		}
	}
}

// TestCompanionsThatCanNotBeFound: an image whose companions cannot be looked up is not done.
func TestCompanionsThatCanNotBeFound(t *testing.T) {
	chosen := selection.Selection{List: []string{"1"}}
	setup := func(t *testing.T) (*harness, string) {
		b := newHarness(t)
		digest := b.index(t, "1", "1")
		children, err := b.from.Children(repository, digest)
		require.NoError(t, err)
		_, err = b.from.PushSignature(repository, children[1].Digest.String())
		require.NoError(t, err)
		return b, registrytest.SignatureTag(children[1].Digest.String())
	}
	lists := registrytest.Kinds(registrytest.KindTags)
	t.Run("limited", func(t *testing.T) {
		b, signature := setup(t)
		mend := b.from.Inject(registrytest.Fault{Match: lists, Status: 429})
		result := b.do(t, b.selected("", chosen))
		require.Len(t, result.Left, 1)
		require.Empty(t, b.kept.records)
		mend()
		require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(result.Left...), Fresh: true, Remainder: true}).Left)
		require.Equal(t, run.Tally{Total: 2, Copied: 2}, b.images)
		b.mirrored(t, "1", signature)
	})
	t.Run("broken", func(t *testing.T) {
		b, signature := setup(t)
		mend := b.from.Inject(registrytest.Fault{Match: lists, Status: 500})
		require.Empty(t, b.do(t, b.selected("", chosen)).Left)
		require.Equal(t, b.from.Host()+"/"+repository+":1", b.kept.only(t).Source)
		b.mirrored(t, "1")
		mend()
		require.Empty(t, b.do(t, b.selected("", chosen)).Left)
		require.Empty(t, b.kept.records)
		b.mirrored(t, "1", signature)
	})
	t.Run("of a time", func(t *testing.T) {
		b, signature := setup(t)
		b.from.Inject(registrytest.Fault{Match: lists, Status: 500, Times: 1})
		require.Empty(t, b.do(t, b.selected("", chosen)).Left)
		require.Empty(t, b.kept.records)
		b.mirrored(t, "1", signature)
	})
	t.Run("copied in vain", func(t *testing.T) {
		b, signature := setup(t)
		mend := b.from.Inject(registrytest.Fault{Match: registrytest.All(gets, registrytest.Ref(signature)), Status: 403})
		defer mend()
		digest, err := b.from.Digest(repository, signature)
		require.NoError(t, err)
		defer b.from.Inject(registrytest.Fault{Match: registrytest.All(gets, registrytest.Ref(digest)), Status: 403})()
		require.Empty(t, b.doAgain(t, b.selected("", chosen)).Left)
		require.Equal(t, b.from.Host()+"/"+repository+":"+signature, b.kept.only(t).Source)
		require.Equal(t, run.Tally{Total: 1, Failed: 1}, b.images)
	})
}
