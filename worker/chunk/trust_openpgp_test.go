//go:build containers_image_openpgp

package chunk

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/verify"
)

// trusting is a worker that requires signatures of a key.
type trusting struct {
	*harness
	key *ecdsa.PrivateKey
}

// newTrusting returns a worker that requires signatures of its key, for this identity.
func newTrusting(t *testing.T, identity string, options ...registrytest.Option) *trusting {
	t.Helper()
	b := newHarnessBetween(t, registrytest.New(t, options...), registrytest.New(t))
	key, public, err := registrytest.NewSigningKey()
	require.NoError(t, err)
	b.trust(t, fmt.Sprintf(`{"default":[{"type":"sigstoreSigned","keyData":%q,"signedIdentity":{"type":%q}}]}`, base64.StdEncoding.EncodeToString(public), identity))
	return &trusting{b, key}
}

// trust sets SIGNATURE_POLICY.
func (b *harness) trust(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.json")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	p, err := policy.Read(path)
	require.NoError(t, err)
	b.Mirror.Trust = verify.NewTrust(p, b.Mirror.Registry, registry.NewTransport([]string{b.from.Host()}, registry.DefaultStall), nil)
}

// sign signs a digest as the repository with this suffix, such as ":1".
func (b *trusting) sign(t *testing.T, digest, suffix string) {
	t.Helper()
	b.attach(t, registrytest.Signature{Key: b.key, Digest: digest, Name: b.entry("").Source.String() + suffix})
}

func (b *trusting) attach(t *testing.T, s registrytest.Signature) {
	t.Helper()
	_, err := b.from.Sign(repository, s, "")
	require.NoError(t, err)
}

func tags(names ...string) selection.Selection { return selection.Selection{List: names} }

// lacks requires that the destination has none of these tags.
func (b *harness) lacks(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := b.to.Digest(destination, name)
		require.ErrorIs(t, err, registrytest.ErrNotFound, name)
	}
}

// config returns the digest of an image's configuration at the source.
func (b *harness) config(t *testing.T, tag string) string {
	t.Helper()
	raw, err := b.from.Manifest(repository, tag)
	require.NoError(t, err)
	manifest, err := v1.ParseManifest(bytes.NewReader(raw))
	require.NoError(t, err)
	return manifest.Config.Digest.String()
}

// TestTrust: images that the key has signed under their name are mirrored. Of other images, nothing
// is copied.
func TestTrust(t *testing.T) {
	b := newTrusting(t, "matchRepoDigestOrExact")
	signed := b.move(t, "1", "1")
	b.sign(t, signed, ":1")
	b.push(t, "unsigned")
	other, _, err := registrytest.NewSigningKey()
	require.NoError(t, err)
	refused := map[string]string{
		"unsigned": "no signature exists", "strangers": "cryptographic signature verification failed",
		"replayed": "Signature for digest " + signed + " does not match", "named": "osism/other:named\" is not accepted",
		"alias": repository + ":1\" is not accepted",
	}
	name := b.entry("").Source.String()
	b.attach(t, registrytest.Signature{Key: other, Digest: b.move(t, "strangers", "strangers"), Name: name + ":strangers"})
	b.attach(t, registrytest.Signature{Key: b.key, Digest: signed, Of: b.move(t, "replayed", "replayed"), Name: name + ":replayed"})
	b.attach(t, registrytest.Signature{Key: b.key, Digest: b.move(t, "named", "named"), Name: b.from.Host() + "/osism/other:named"})
	b.move(t, "alias", "1") // signed as :1

	require.Empty(t, b.do(t, b.selected("", tags("1", "unsigned", "strangers", "replayed", "named", "alias"))).Left)
	require.Equal(t, run.Tally{Total: 7, Copied: 2, Failed: 5}, b.images, "1 and its signature")
	b.mirrored(t, "1", registrytest.SignatureTag(signed))
	require.Len(t, b.kept.records, len(refused))
	for tag, why := range refused {
		failed := b.kept.records[name+":"+tag]
		require.Contains(t, failed.Reason, "rejected by the signature policy ", tag)
		require.Equal(t, 1, failed.Attempts, "another try cannot help")
		require.Contains(t, failed.Reason, why, tag)
		b.lacks(t, tag)
		if tag != "alias" {
			require.Zero(t, b.from.Count(registrytest.Ref(b.config(t, tag))))
		}
	}
	require.NotZero(t, b.from.Count(registrytest.Ref(b.config(t, "1"))))

	b.reset()
	require.Empty(t, b.do(t, b.entry("1")).Left)
	require.Equal(t, 1, b.images.Unchanged)
	require.Zero(t, b.from.Pulls(), "nothing moves, so nothing is verified")
}

// TestTrustOfIndexes: the signature of an index also covers its images. Signatures of its images do
// not cover the index.
func TestTrustOfIndexes(t *testing.T) {
	for name, test := range map[string]struct {
		index, children, mirrored bool
		selection                 selection.Selection
	}{
		"index only":    {index: true, mirrored: true},
		"recursive":     {index: true, children: true, mirrored: true},
		"children only": {children: true},
		"nothing":       {},
		"one platform":  {index: true, mirrored: true, selection: selection.Selection{Platforms: []string{"linux/arm64"}}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTrusting(t, "matchRepository")
			index := b.index(t, "1", "1")
			children, err := b.from.Children(repository, index)
			require.NoError(t, err)
			if test.index {
				b.sign(t, index, "")
			}
			for _, child := range children {
				if test.children {
					b.sign(t, child.Digest.String(), "")
				}
			}
			test.selection.List = []string{"1"}
			require.Empty(t, b.do(t, b.selected("", test.selection)).Left)
			if !test.mirrored {
				require.Equal(t, run.Tally{Total: 1, Failed: 1}, b.images)
				require.Contains(t, b.kept.only(t).Reason, "no signature exists")
				repositories, err := b.to.Repositories()
				require.NoError(t, err)
				require.Empty(t, repositories)
				return
			}
			require.Empty(t, b.kept.records)
			require.NoError(t, b.to.Check(destination, "1"))
			if len(test.selection.Platforms) == 0 {
				b.mirrored(t, "1")
			}
			require.Equal(t, b.from.Pulls(), b.pulls)
			require.Equal(t, 1, b.from.Count(registrytest.All(gets, registrytest.Ref(index))), "what was verified is copied")
		})
	}
}

// TestTrustCoversEverything: the policy's verdict on an image also applies to its companions and
// referrers.
func TestTrustCoversEverything(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{"API": {registrytest.WithReferrersAPI(0)}, "fallback tag": nil} {
		t.Run(name, func(t *testing.T) {
			t.Run("chosen", func(t *testing.T) { coversEverything(t, false, options...) })
			t.Run("whole repository", func(t *testing.T) { coversEverything(t, true, options...) })
		})
	}
}

func coversEverything(t *testing.T, whole bool, options ...registrytest.Option) {
	b := newTrusting(t, "matchExact", options...)
	signed, unsigned := b.move(t, "1", "1"), b.move(t, "2", "2")
	index := b.index(t, "3", "3")
	children, err := b.from.Children(repository, index)
	require.NoError(t, err)
	b.sign(t, signed, ":1")
	b.sign(t, index, ":3")
	bill, hidden := b.refer(t, signed, sbom), b.refer(t, unsigned, sbom)
	about := map[bool][]string{}
	for of, is := range map[string]bool{signed: true, unsigned: false, children[0].Digest.String(): true} {
		tag := "sha256-" + of[len("sha256:"):] + ".sbom"
		b.move(t, tag, tag)
		about[is] = append(about[is], tag)
	}
	orphan := "sha256-" + gone[len("sha256:"):] + ".sig"
	b.move(t, orphan, orphan)
	lists, err := b.from.Tags(repository)
	require.NoError(t, err)
	for _, tag := range lists {
		if tag == "sha256-"+unsigned[len("sha256:"):] { // of referrers
			about[false] = append(about[false], tag)
		}
	}

	s := selection.Selection{Referrers: true}
	if !whole {
		s.List = []string{"1", "2", "3"}
	}
	require.Empty(t, b.do(t, b.selected("", s)).Left)
	b.mirrored(t, append(about[true], "1", "3", registrytest.SignatureTag(signed), registrytest.SignatureTag(index))...)
	b.lacks(t, append(about[false], "2", unsigned, orphan, hidden)...)
	b.requireAt(t, bill)
	if whole {
		require.Equal(t, 1, b.images.Skipped, "nothing is known of what it is about")
		require.Equal(t, 1+len(about[false]), b.images.Failed)
	} else {
		require.Zero(t, b.images.Skipped)
		require.Equal(t, 1, b.images.Failed, "the image, which is what has to be signed")
	}
}

// TestTrustOfUnwantedPlatforms: images without a wanted platform need no signature, and are not pulled
// again.
func TestTrustOfUnwantedPlatforms(t *testing.T) {
	b := newTrusting(t, "matchRepository")
	b.index(t, "1", "1")
	s := selection.Selection{List: []string{"1"}, Platforms: []string{"linux/riscv64"}}
	require.Empty(t, b.do(t, b.selected("", s)).Left)
	require.Equal(t, run.Tally{Total: 1, Skipped: 1}, b.images)
	b.reset()
	require.Empty(t, b.do(t, b.selected("", s)).Left)
	require.Equal(t, run.Tally{Total: 1, Skipped: 1}, b.images)
	require.Zero(t, b.from.Pulls())
}

// TestTrustOfWhatIsThere: an unsigned image that the destination has, under another tag or none, is
// not tagged, and gets no referrers.
func TestTrustOfWhatIsThere(t *testing.T) {
	b := newTrusting(t, "matchRepository", registrytest.WithReferrersAPI(0))
	trust := b.Mirror.Trust
	b.Mirror.Trust = mirror.AnyTag{}
	b.push(t, "1")
	require.Empty(t, b.do(t, b.entry("1")).Left)
	b.mirrored(t, "1")

	b.Mirror.Trust = trust
	b.reset()
	digest := b.move(t, "2", "1")
	bill := b.refer(t, digest, sbom)
	s := tags("1", "2")
	s.Referrers = true
	require.Empty(t, b.do(t, b.selected("", s)).Left)
	b.lacks(t, "2", bill)
	require.Equal(t, run.Tally{Total: 2, Failed: 2}, b.images)

	b.sign(t, digest, "")
	b.sign(t, digest, "")
	require.Empty(t, b.do(t, b.selected("", s)).Left)
	b.mirrored(t, "1", "2")
	b.requireAt(t, bill)
	require.Empty(t, b.kept.records)
}

// moving calls move as soon as the manifest is pulled for its verification.
type moving struct {
	mirror.Trust
	move func()
}

func (m moving) Verify(ctx context.Context, source reference.Repository, digest reference.Digest, tags []reference.Tag, get func(context.Context) (registry.Manifest, error)) (int, []error) {
	return m.Trust.Verify(ctx, source, digest, tags, func(ctx context.Context) (registry.Manifest, error) {
		manifest, err := get(ctx)
		m.move()
		return manifest, err
	})
}

// TestTrustIsOfADigest: a tag that moves while it is verified is mirrored as it was before.
func TestTrustIsOfADigest(t *testing.T) {
	b := newTrusting(t, "matchExact")
	signed := b.move(t, "1", "1")
	b.sign(t, signed, ":1")
	trust := b.Mirror.Trust
	var evil string
	b.Mirror.Trust = moving{trust, func() { evil = b.move(t, "1", "evil") }}
	require.Empty(t, b.do(t, b.entry("1")).Left)
	require.Equal(t, signed, b.digestAt(t, "1"))
	b.lacks(t, evil)

	b.Mirror.Trust = trust
	require.Empty(t, b.do(t, b.entry("1")).Left)
	require.Equal(t, signed, b.digestAt(t, "1"))
	require.Equal(t, 1, b.images.Failed)
}

// TestTrustThatCannotBeFoundOut: if signatures cannot be read, the image is retried, or waits.
func TestTrustThatCannotBeFoundOut(t *testing.T) {
	b := newTrusting(t, "matchRepository")
	digest := b.move(t, "1", "1")
	b.sign(t, digest, "")
	at := registrytest.Ref(registrytest.SignatureTag(digest))
	b.from.Inject(registrytest.Fault{Match: at, Status: http.StatusServiceUnavailable, Times: attempts - 1})
	require.Empty(t, b.do(t, b.entry("1")).Left)
	b.mirrored(t, "1")

	digest = b.move(t, "2", "2")
	b.sign(t, digest, "")
	at = registrytest.Ref(registrytest.SignatureTag(digest))
	mend := b.from.Inject(registrytest.Fault{Match: at, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}}})
	result := b.do(t, b.entry("2"))
	require.Len(t, result.Left, 1)
	require.GreaterOrEqual(t, result.After, 7*time.Second)
	require.Empty(t, b.kept.records)
	b.lacks(t, digest)
	mend()
	require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(result.Left...), Remainder: true}).Left)
	b.mirrored(t, "2")
}

// TestTrustOfACompanionAlone: a companion is mirrored even if it is retried without its image,
// whether the image is signed by its tag or as a part of an index.
func TestTrustOfACompanionAlone(t *testing.T) {
	b := newTrusting(t, "matchExact")
	image, index := b.move(t, "1", "1"), b.index(t, "2", "2")
	b.sign(t, image, ":1")
	b.sign(t, index, ":2")
	b.move(t, "3", "3")
	unsigned, err := b.from.Digest(repository, "3")
	require.NoError(t, err)
	children, err := b.from.Children(repository, index)
	require.NoError(t, err)
	b.do(t, b.selected("", tags("1", "2", "3")))
	b.mirrored(t, "1", "2")

	alone := func(of string) (tag string) {
		tag = "sha256-" + of[len("sha256:"):] + ".sbom"
		b.move(t, tag, tag)
		entry := b.entry("")
		entry.Images = []message.Image{{Tag: reference.MustTag(tag)}}
		result := b.deliver(t, Delivery{Chunk: b.chunk(entry), Remainder: true})
		require.Empty(t, result.Left)
		return tag
	}
	b.mirrored(t, alone(image), alone(children[1].Digest.String()))
	refused := alone(unsigned)
	b.lacks(t, refused)
	require.Contains(t, b.kept.records[b.entry("").Source.String()+":"+refused].Reason, "rejected by the signature policy")
}

// TestTrustWhileTheSourceIsAway: an image does not count as missing if the source that denies it is away.
func TestTrustWhileTheSourceIsAway(t *testing.T) {
	b := newTrusting(t, "matchRepository")
	orphan := "sha256-" + gone[len("sha256:"):] + ".sig"
	b.move(t, orphan, orphan)
	entry := b.entry("")
	entry.Images = []message.Image{{Tag: reference.MustTag(orphan)}}
	registries := &fleet{blame: func(int) bool { return true }}
	b.Registries = registries
	require.Len(t, b.deliver(t, Delivery{Chunk: b.chunk(entry), Remainder: true}).Left, 1)
	require.Zero(t, b.images.Skipped)
	registries.blame = nil
	require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(entry), Remainder: true}).Left)
	require.Equal(t, 1, b.images.Skipped)
}
