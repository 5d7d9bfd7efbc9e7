//go:build containers_image_openpgp

package verify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
	"github.com/osism/skopeo-worker/worker/verify"
)

// home is the folder in which containers/image looks for its configuration. The library caches it.
var home string

func TestMain(m *testing.M) {
	code := 1
	_ = os.Unsetenv("XDG_CONFIG_HOME") // only its name can be invalid
	if err := inHome(func() { code = m.Run() }); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func inHome(run func()) (err error) {
	if home, err = os.MkdirTemp("", "verify"); err != nil {
		return err
	}
	defer os.RemoveAll(home)
	if err := os.Setenv("HOME", home); err != nil {
		return err
	}
	run()
	return nil
}

// site is a source and a destination, a mirror that obeys a policy, and a key.
type site struct {
	*mirror.Mirror
	from, to *registrytest.Registry
	home     string
	storage  string // of signatures, in the file system
	key      *openpgp.Entity
}

func newSite(t *testing.T, options ...registrytest.Option) *site {
	t.Helper()
	s := &site{from: registrytest.New(t, options...), to: registrytest.New(t), home: t.TempDir(), storage: t.TempDir()}
	insecure := []string{s.from.Host(), s.to.Host()}
	network := registry.NewTransport(insecure, registry.DefaultStall)
	client := registry.NewClient(registry.Options{Insecure: insecure, Transport: network})
	s.Mirror = mirrortest.New(t, client, nil)
	s.Verifier = verify.New(client, network)
	var err error
	s.key, err = openpgp.NewEntity("Somebody", "", "somebody@example.com", nil)
	require.NoError(t, err)
	s.lookaside(t, "file://"+s.storage)
	return s
}

func (s *site) write(t *testing.T, path, text string) string {
	t.Helper()
	path = filepath.Join(s.home, path)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// lookaside configures the server of the source's signatures.
func (s *site) lookaside(t *testing.T, url string) {
	t.Helper()
	folder := filepath.Join(home, ".config/containers/registries.d")
	require.NoError(t, os.MkdirAll(folder, 0o700))
	text := fmt.Sprintf("docker:\n  %s:\n    lookaside: %s\n", s.from.Host(), url)
	require.NoError(t, os.WriteFile(filepath.Join(folder, strings.ReplaceAll(s.from.Host(), ":", "-")+".yaml"), []byte(text), 0o600))
}

// policy sets a policy with this requirement for every image.
func (s *site) policy(t *testing.T, requirement string) {
	t.Helper()
	t.Setenv("CONTAINERS_POLICY_JSON", s.write(t, "policy.json", `{"default":[`+requirement+`]}`))
}

// signedBy returns a requirement of signatures of the key.
func (s *site) signedBy(t *testing.T) string {
	t.Helper()
	var key bytes.Buffer
	w, err := armor.Encode(&key, openpgp.PublicKeyType, nil)
	require.NoError(t, err)
	require.NoError(t, s.key.Serialize(w))
	require.NoError(t, w.Close())
	return fmt.Sprintf(`{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}`, s.write(t, "key.asc", key.String()))
}

// signature returns a signature of a digest, as `podman image sign` makes it.
func signature(t *testing.T, by *openpgp.Entity, name, digest string) []byte {
	t.Helper()
	payload, err := json.Marshal(map[string]any{"critical": map[string]any{
		"type":     "atomic container signature",
		"image":    map[string]string{"docker-manifest-digest": digest},
		"identity": map[string]string{"docker-reference": name},
	}, "optional": map[string]any{}})
	require.NoError(t, err)
	var signed bytes.Buffer
	w, err := openpgp.Sign(&signed, by, nil, nil)
	require.NoError(t, err)
	_, err = w.Write(payload)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return signed.Bytes()
}

// sign puts a signature into the storage.
func (s *site) sign(t *testing.T, by *openpgp.Entity, name, digest string) {
	t.Helper()
	folder := filepath.Join(s.storage, repository+"@"+strings.Replace(digest, ":", "=", 1))
	require.NoError(t, os.MkdirAll(folder, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "signature-1"), signature(t, by, name, digest), 0o600))
}

func (s *site) copy(t *testing.T, digest string) (mirror.Copied, error) {
	t.Helper()
	to := mirror.Target{Repository: reference.MustRepository(s.to.Host() + "/mirror"), Tag: reference.MustTag("1")}
	copied, err := s.CopyImage(t.Context(), s.source(), to.Repository, registry.Descriptor{Digest: reference.MustDigest(digest)}, platform.Wanted{})
	if err == nil {
		err = s.Tag(t.Context(), to, copied.Digest)
	}
	return copied, err
}

func (s *site) source() reference.Repository {
	return reference.MustRepository(s.from.Host() + "/" + repository)
}

// refused requires that the worker and skopeo reject an image before they copy anything of it.
func (s *site) refused(t *testing.T, digest string) {
	t.Helper()
	_, err := s.copy(t, digest)
	require.ErrorIs(t, err, policy.ErrRejected)
	require.Equal(t, outcome.Final, outcome.Classify(err))
	require.ErrorContains(t, err, s.source().String()+"@"+digest)
	require.NotContains(t, err.Error(), "\n")
	require.Zero(t, s.from.Count(registrytest.Kinds(registrytest.KindBlobGet)))
	repositories, err := s.to.Repositories()
	require.NoError(t, err)
	require.Empty(t, repositories)
	require.Error(t, s.bySkopeo(t.Context(), digest))
}

// accepted requires that the worker and skopeo copy an image.
func (s *site) accepted(t *testing.T, digest string) {
	t.Helper()
	require.NoError(t, s.bySkopeo(t.Context(), digest))
	s.from.ResetRequests()
	copied, err := s.copy(t, digest)
	require.NoError(t, err)
	require.NoError(t, s.to.Check("mirror", digest))
	require.Equal(t, s.from.Pulls(), copied.Pulls)
	require.Equal(t, 1, copied.Pulls, "verified is what was pulled")
}

func (s *site) bySkopeo(ctx context.Context, digest string) error {
	runner := &skopeo.Runner{Insecure: []string{s.from.Host(), s.to.Host()}}
	return runner.CopyManifest(ctx, s.source(), reference.MustDigest(digest), reference.MustRepository(s.to.Host()+"/by-skopeo"))
}

func push(t *testing.T, s *site) string {
	t.Helper()
	digest, err := s.from.PushImage(repository, "1", registrytest.Image{})
	require.NoError(t, err)
	return digest
}
