//go:build containers_image_openpgp

package check_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/check"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/verify"
)

// trust sets SIGNATURE_POLICY.
func (s *site) trust(t *testing.T, text string, signatures bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.json")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	p, err := policy.Read(path)
	require.NoError(t, err)
	network := registry.NewTransport([]string{s.from.Host()}, registry.DefaultStall)
	client := s.Mirror.Registry
	if signatures {
		client = registry.NewClient(registry.Options{Insecure: []string{s.from.Host()}, Transport: network})
	}
	s.Verify = mirror.NewVerifying(client, verify.NewTrust(p, client, network, nil)).Verify
	s.Signatures = signatures
}

// TestTrust: images that the policy rejects by name are found without a pull. Of the others, the
// number of signatures is counted that a run has to check. With Signatures, all signatures are
// checked, including those of unchanged images.
func TestTrust(t *testing.T) {
	s := newSite(t)
	s.both(t, "old", "older")
	signed := image(t, s.from, tool, "1", "1")
	image(t, s.from, tool, "2", "2")
	image(t, s.from, tool, "named", "named")
	image(t, s.to, tool, "kept", "2")
	s.to.ResetRequests()
	key, public, err := registrytest.NewSigningKey()
	require.NoError(t, err)
	name := s.entry(tool).Source.String()
	old, err := s.from.Digest(tool, "old")
	require.NoError(t, err)
	for _, digest := range []string{signed, old} {
		_, err := s.from.Sign(tool, registrytest.Signature{Key: key, Digest: digest, Name: name}, "")
		require.NoError(t, err)
	}
	text := fmt.Sprintf(`{"default":[{"type":"sigstoreSigned","keyData":%q,"signedIdentity":{"type":"matchRepository"}}],"transports":{"docker":{%q:[{"type":"reject"}]}}}`,
		base64.StdEncoding.EncodeToString(public), name+":named")
	entry := s.entry(tool)
	entry.Selection = &selection.Selection{List: []string{"1", "2", "named", "old", "older"}}
	rejected := func(r check.Report) (tags []string) {
		for _, image := range r.Repositories[0].Rejected {
			tags = append(tags, image.Image[len(name)+1:])
			require.Contains(t, image.Reason, "rejected by the signature policy ")
		}
		require.Equal(t, len(tags), r.Totals.Rejected)
		require.Empty(t, r.Repositories[0].Failed)
		return tags
	}

	s.trust(t, text, false)
	report := s.check(t, entry)
	require.Equal(t, []string{"named"}, rejected(report))
	counts := report.Totals.Counts
	require.Equal(t, []int{1, 1, 2, 2, 0}, []int{counts.Copy - 2, counts.Tag, counts.Unchanged, counts.Unverified, counts.Signed}, "%+v: 1, and two signatures", counts)
	require.True(t, counts.PullsAtLeast)
	require.Zero(t, s.from.Pulls())

	s.trust(t, text, true)
	report = s.check(t, entry)
	require.ElementsMatch(t, []string{"2", "named", "older"}, rejected(report))
	counts = report.Totals.Counts
	require.Equal(t, []int{0, 1, 0, 2}, []int{counts.Tag, counts.Unchanged, counts.Unverified, counts.Signed})
	s.from.ResetRequests() // it is meant to pull
}

// TestTrustOfEverything: if an entry selects no tags, signatures are tags like others. As in a run,
// they are rejected with their image, and skipped if the source lacks the image.
func TestTrustOfEverything(t *testing.T) {
	s := newSite(t)
	signed := image(t, s.from, tool, "1", "1")
	index, err := s.from.PushIndex(tool, "2", registrytest.MultiPlatform("2", "linux/amd64"))
	require.NoError(t, err)
	children, err := s.from.Children(tool, index)
	require.NoError(t, err)
	image(t, s.from, tool, "3", "3")
	for _, subject := range []string{signed, index, children[0].Digest.String(), "sha256:" + strings.Repeat("0", 64)} {
		_, err := s.from.PushSignature(tool, subject)
		require.NoError(t, err)
	}
	entry := s.entry(tool)
	name := entry.Source.String()
	counts := func(text string) []int {
		s.trust(t, text, false)
		report := s.check(t, entry)
		require.Zero(t, s.from.Pulls())
		totals := report.Totals
		for _, image := range report.Repositories[0].Rejected {
			require.Contains(t, image.Reason, "rejected by the signature policy ")
		}
		return []int{totals.Copy, totals.Rejected, totals.Skipped, totals.Failed}
	}
	scoped := func(tag, other string) string {
		return fmt.Sprintf(`{"default":[{"type":%q}],"transports":{"docker":{%q:[{"type":"reject"}]}}}`, other, name+tag)
	}
	const all = "insecureAcceptAnything"
	require.Equal(t, []int{0, 6, 1, 0}, counts(scoped("", all)), "1, 2, 3 and three signatures; that of no image is skipped")
	require.Equal(t, []int{4, 2, 1, 0}, counts(scoped(":1", all)), "1 and its signature")
	require.Equal(t, []int{4, 2, 1, 0}, counts(scoped(":2", all)), "2 and its signature")
}
