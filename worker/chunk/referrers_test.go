package chunk

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

const (
	signature = "application/vnd.dev.sigstore.bundle.v0.3+json"
	sbom      = "application/spdx+json"
)

var withReferrers = selection.Selection{Referrers: true}

// refer pushes a referrer of a digest to the source.
func (b *harness) refer(t *testing.T, digest, kind string) string {
	t.Helper()
	referrer, err := b.from.PushReferrer(repository, digest, kind)
	require.NoError(t, err)
	return referrer
}

func (b *harness) requireAt(t *testing.T, digests ...string) {
	t.Helper()
	for _, digest := range digests {
		_, err := b.to.Digest(destination, digest)
		require.NoError(t, err)
	}
}

// TestReferrers: signatures and SBOMs are mirrored with their image, including those of SBOMs and
// of the images of an index, even to a destination without the referrers API. New ones of unchanged
// images are mirrored, too.
func TestReferrers(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{
		"API": {registrytest.WithReferrersAPI(1)}, "fallback tag": nil,
	} {
		t.Run(name, func(t *testing.T) {
			b := newHarnessBetween(t, registrytest.New(t, options...), registrytest.New(t))
			image := b.move(t, "1", "1")
			b.move(t, "alias", "1")
			bill := b.refer(t, image, sbom)
			signed := b.refer(t, bill, signature)
			index := b.index(t, "2", "2")
			children, err := b.from.Children(repository, index)
			require.NoError(t, err)
			child := b.refer(t, children[0].Digest.String(), signature)

			lists := 0 // of referrers, which are tags like any other
			if name != "API" {
				lists = 3
			}
			require.Empty(t, b.do(t, b.selected("", withReferrers)).Left)
			require.Equal(t, 3+lists, b.images.Copied+b.images.Tagged)
			require.Equal(t, 3+lists, b.images.Total)
			require.Equal(t, b.from.Pulls(), b.pulls)
			b.mirrored(t, "1", "alias", "2")
			b.requireAt(t, bill, signed, child)
			for subject, referrer := range map[string]string{image: bill, bill: signed, children[0].Digest.String(): child} {
				listed, err := b.to.Children(destination, "sha256-"+subject[len("sha256:"):])
				require.NoError(t, err)
				require.Len(t, listed, 1)
				require.Equal(t, referrer, listed[0].Digest.String())
			}

			b.reset()
			require.Empty(t, b.do(t, b.selected("", withReferrers)).Left)
			require.Equal(t, run.Tally{Total: 3 + lists, Unchanged: 3 + lists}, b.images)
			require.Zero(t, b.to.Count(puts))
			require.Zero(t, b.from.Pulls())
			require.Zero(t, b.pulls)

			newer := b.refer(t, image, signature)
			b.move(t, "latest", "1")
			b.reset()
			require.Empty(t, b.do(t, b.selected("", withReferrers)).Left)
			require.Equal(t, []int{4 + lists, 0}, []int{b.images.Total, b.images.Failed})
			require.Equal(t, 1, b.from.Count(registrytest.All(gets, registrytest.Ref(newer))))
			b.requireAt(t, newer)
			b.mirrored(t, "latest")
			if name != "API" {
				b.mirrored(t, "sha256-"+image[len("sha256:"):])
			}
		})
	}
}

// TestReferrerThatCannotBeCopied: the image becomes a failure with the error of the referrer. The
// image and its other referrers are mirrored.
func TestReferrerThatCannotBeCopied(t *testing.T) {
	for name, fault := range map[string]registrytest.Fault{
		"denied": {Status: 403}, "broken": {Status: 500}, "empty": {Status: 200}, "a page": {Status: 200, Body: "<html></html>"},
		"another": {Status: 200, Body: "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newHarnessBetween(t, registrytest.New(t, registrytest.WithReferrersAPI(0)), registrytest.New(t))
			image := b.move(t, "1", "1")
			b.push(t, "2")
			bill := b.refer(t, image, sbom)
			signed, other := b.refer(t, bill, signature), b.refer(t, image, signature)
			fault.Match = registrytest.All(gets, registrytest.Ref(bill))
			remove := b.from.Inject(fault)
			require.Empty(t, b.doAgain(t, b.selected("", withReferrers)).Left)
			require.Equal(t, 1, b.images.Failed)
			failed := b.kept.only(t)
			require.Equal(t, b.from.Host()+"/"+repository+":1", failed.Source)
			require.Contains(t, failed.Reason, "mirroring the referrers: ")
			require.Contains(t, failed.Reason, bill)
			b.mirrored(t, "1", "2")
			b.requireAt(t, other, signed)

			remove()
			require.Empty(t, b.do(t, b.selected("", withReferrers)).Left)
			require.Equal(t, run.Tally{Total: 2, Unchanged: 2}, b.images)
			require.Empty(t, b.kept.records)
			b.requireAt(t, bill)
		})
	}
}

// TestSignaturesFollowTheirImage: cosign's tags are mirrored with their image, even if the selection does
// not match them. Those of other images are not.
func TestSignaturesFollowTheirImage(t *testing.T) {
	for name, s := range map[string]selection.Selection{
		"filter":              {Include: []string{"v"}},
		"limit":               {Limit: 1},
		"filter and platform": {Include: []string{"v"}, Platforms: []string{"linux/amd64"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newHarness(t)
			wanted, other := b.move(t, "v2", "v2"), b.move(t, "1", "1")
			for _, digest := range []string{wanted, other} {
				_, err := b.from.PushSignature(repository, digest)
				require.NoError(t, err)
			}
			require.Empty(t, b.do(t, b.selected("", s)).Left)
			require.Equal(t, run.Tally{Total: 2, Copied: 2}, b.images)
			b.mirrored(t, "v2", registrytest.SignatureTag(wanted))
			tags, err := b.to.Tags(destination)
			require.NoError(t, err)
			require.Len(t, tags, 2)

			b.reset()
			require.Empty(t, b.do(t, b.selected("", s)).Left)
			require.Equal(t, run.Tally{Total: 2, Unchanged: 2}, b.images)
			require.Zero(t, b.from.Pulls())
		})
	}
}
