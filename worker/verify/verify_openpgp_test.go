//go:build containers_image_openpgp

package verify_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/verify"
)

const repository = "osism/tool"

// TestSimpleSigning: only an image that is signed by the key under this name is copied.
func TestSimpleSigning(t *testing.T) {
	other, err := openpgp.NewEntity("Other", "", "other@example.com", nil)
	require.NoError(t, err)
	for name, sign := range map[string]func(s *site, digest string){
		"not signed":       func(*site, string) {},
		"by somebody else": func(s *site, digest string) { s.sign(t, other, s.source().String()+":1", digest) },
		"another name":     func(s *site, digest string) { s.sign(t, s.key, s.from.Host()+"/osism/other:1", digest) },
		"another digest": func(s *site, digest string) {
			s.sign(t, s.key, s.source().String()+":1", reference.DigestOf(nil).String())
			from := filepath.Join(s.storage, repository+"@"+strings.Replace(reference.DigestOf(nil).String(), ":", "=", 1))
			require.NoError(t, os.Rename(from, filepath.Join(s.storage, repository+"@"+strings.Replace(digest, ":", "=", 1))))
		},
		"broken": func(s *site, digest string) {
			s.sign(t, s.key, s.source().String()+":1", digest)
			path := filepath.Join(s.storage, repository+"@"+strings.Replace(digest, ":", "=", 1), "signature-1")
			require.NoError(t, os.WriteFile(path, []byte("no signature"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			digest := push(t, s)
			s.policy(t, s.signedBy(t))
			sign(s, digest)
			s.refused(t, digest)
		})
	}
	t.Run("signed", func(t *testing.T) {
		s := newSite(t)
		digest := push(t, s)
		s.policy(t, s.signedBy(t))
		s.sign(t, s.key, s.source().String()+":1", digest)
		s.accepted(t, digest)
	})
	t.Run("signed and rejected", func(t *testing.T) {
		s := newSite(t)
		digest := push(t, s)
		s.policy(t, s.signedBy(t)+`,{"type":"reject"}`)
		s.sign(t, s.key, s.source().String()+":1", digest)
		s.refused(t, digest)
	})
}

// TestOtherStorages: signatures may be on a web server, or in the registry's signature extension.
func TestOtherStorages(t *testing.T) {
	s := newSite(t)
	digest := push(t, s)
	s.policy(t, s.signedBy(t))
	s.sign(t, s.key, s.source().String()+":1", digest)
	answers := http.FileServer(http.Dir(s.storage))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answers.ServeHTTP(w, r) }))
	defer server.Close()
	s.lookaside(t, server.URL)
	s.accepted(t, digest)

	// A server that does not answer gives no verdict.
	answers = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	other, err := s.from.PushImage(repository, "2", registrytest.Image{Version: "2"})
	require.NoError(t, err)
	_, err = s.copy(t, other)
	require.ErrorContains(t, err, "answered 503")
	require.Equal(t, outcome.Transient, outcome.Classify(err))
	require.NotErrorIs(t, err, policy.ErrRejected)
	server.Close()
	_, err = s.copy(t, other)
	require.Equal(t, outcome.Transient, outcome.Classify(err), err)
}

// cosign signs a digest as cosign does, under a tag in the registry, and returns a requirement of
// the key.
func (s *site) cosign(t *testing.T, digest string) (requirement string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	path := s.write(t, "cosign.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	payload := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`,
		s.source().String(), digest)
	sum := sha256.Sum256([]byte(payload))
	signed, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	require.NoError(t, err)
	layer, err := s.from.PushBlob(repository, []byte(payload))
	require.NoError(t, err)
	config, err := s.from.PushBlob(repository, []byte("{}"))
	require.NoError(t, err)
	_, err = s.from.PushManifest(repository, registrytest.SignatureTag(digest), types.OCIManifestSchema1, fmt.Appendf(nil,
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":2,"digest":%q},"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":%d,"digest":%q,"annotations":{"dev.cosignproject.cosign/signature":%q}}]}`,
		types.OCIManifestSchema1, types.OCIConfigJSON, config, len(payload), layer, base64.StdEncoding.EncodeToString(signed)))
	require.NoError(t, err)
	return fmt.Sprintf(`{"type":"sigstoreSigned","keyPath":%q,"signedIdentity":{"type":"matchRepository"}}`, path)
}

// TestSigstore: a Sigstore signature is a manifest, so reading it takes a pull, which is counted
// like any other.
func TestSigstore(t *testing.T) {
	s := newSite(t)
	folder := filepath.Join(home, ".config/containers/registries.d")
	require.NoError(t, os.WriteFile(filepath.Join(folder, strings.ReplaceAll(s.from.Host(), ":", "-")+".yaml"),
		fmt.Appendf(nil, "docker:\n  %s:\n    use-sigstore-attachments: true\n", s.from.Host()), 0o600))
	digest := push(t, s)
	s.policy(t, s.cosign(t, reference.DigestOf(nil).String()))
	s.refused(t, digest)

	s.policy(t, s.cosign(t, digest))
	s.from.ResetRequests()
	_, err := s.copy(t, digest)
	require.NoError(t, err)
	require.NoError(t, s.to.Check("mirror", digest))
	require.Equal(t, 2, s.from.Pulls())

	other, err := s.from.PushImage(repository, "2", registrytest.Image{Version: "2"})
	require.NoError(t, err)
	s.from.Inject(registrytest.Fault{Match: registrytest.Ref(registrytest.SignatureTag(other)), Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}}})
	_, err = s.copy(t, other)
	require.Equal(t, outcome.Limited, outcome.Classify(err), err)
	require.Equal(t, 7*time.Second, outcome.RetryAfter(err))
}

// TestTheGateIsClosed: the gate refuses other processes, and does not listen when nothing is
// verified.
func TestTheGateIsClosed(t *testing.T) {
	s := newSite(t)
	digest := push(t, s)
	s.policy(t, s.signedBy(t))
	s.sign(t, s.key, s.source().String()+":1", digest)
	asked, goOn := make(chan string, 1), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.RemoteAddr
		<-goOn
		http.FileServer(http.Dir(s.storage)).ServeHTTP(w, r)
	}))
	defer server.Close()
	s.lookaside(t, server.URL)
	copied := make(chan error, 1)
	go func() { _, err := s.copy(t, digest); copied <- err }()
	<-asked
	gate := s.Verifier.(*verify.Verifier).GateAddress()
	for _, user := range []*url.Userinfo{nil, url.UserPassword("way", ""), url.UserPassword("way", "guess")} {
		proxy := http.ProxyURL(&url.URL{Scheme: "http", Host: gate, User: user})
		response, err := (&http.Client{Transport: &http.Transport{Proxy: proxy}}).Get("http://" + s.from.Host() + "/v2/" + repository + "/manifests/" + digest)
		if err == nil {
			require.Equal(t, http.StatusProxyAuthRequired, response.StatusCode)
			response.Body.Close()
		}
	}
	go func() {
		for range asked { // it asks for a second signature
		}
	}()
	close(goOn)
	require.NoError(t, <-copied)
	_, err := net.Dial("tcp", gate)
	require.Error(t, err)
}

// TestScopes: the policy of the image's name applies.
func TestScopes(t *testing.T) {
	s := newSite(t)
	digest := push(t, s)
	scoped := func(scope, requirement string) {
		text := fmt.Sprintf(`{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{%q:[%s]}}}`, scope, requirement)
		t.Setenv("CONTAINERS_POLICY_JSON", s.write(t, "policy.json", text))
	}
	for _, scope := range []string{s.from.Host(), s.from.Host() + "/osism", s.source().String()} {
		scoped(scope, `{"type":"reject"}`)
		s.refused(t, digest)
		require.Zero(t, s.from.Count(registrytest.Kinds(registrytest.KindBlobGet)))
	}
	scoped(s.from.Host()+"/other", `{"type":"reject"}`)
	s.accepted(t, digest)
}

// TestIndexes: each image of an index must be signed. Attestations need no signature; they are
// copied after the images.
func TestIndexes(t *testing.T) {
	s := newSite(t)
	digest, err := s.from.PushIndex(repository, "1", registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	children, err := s.from.Children(repository, digest)
	require.NoError(t, err)
	s.policy(t, s.signedBy(t))
	s.sign(t, s.key, s.source().String()+":1", digest)
	s.sign(t, s.key, s.source().String()+":1", children[0].Digest.String())
	_, err = s.copy(t, digest)
	require.ErrorIs(t, err, policy.ErrRejected)
	for _, attestation := range children[2:] {
		_, err := s.to.Digest("mirror", attestation.Digest.String())
		require.ErrorIs(t, err, registrytest.ErrNotFound)
	}
	s.sign(t, s.key, s.source().String()+":1", children[1].Digest.String())
	_, err = s.copy(t, digest)
	require.NoError(t, err)
	require.NoError(t, s.to.Check("mirror", digest))
}

// TestIndexesWithoutImages: an index without images must be signed itself.
func TestIndexesWithoutImages(t *testing.T) {
	s := newSite(t)
	digest, err := s.from.PushManifest(repository, "1", types.OCIImageIndex, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[]}`, types.OCIImageIndex))
	require.NoError(t, err)
	s.policy(t, s.signedBy(t))
	_, err = s.copy(t, digest)
	require.ErrorIs(t, err, policy.ErrRejected)
	s.sign(t, s.key, s.source().String()+":1", digest)
	_, err = s.copy(t, digest)
	require.NoError(t, err)
}

// TestPoliciesThatCannotBeRead: if the policy cannot be read, every image fails. Images that it
// rejects by name are not pulled.
func TestPoliciesThatCannotBeRead(t *testing.T) {
	s := newSite(t)
	digest := push(t, s)
	for requirement, is := range map[string]error{`{"type":"x"}`: policy.ErrUnreadable, `{`: policy.ErrUnreadable, `{"type":"reject"}`: policy.ErrRejected} {
		s.policy(t, requirement)
		_, err := s.copy(t, digest)
		require.ErrorIs(t, err, is)
		require.Equal(t, outcome.Final, outcome.Classify(err))
		require.ErrorContains(t, err, s.home+"/policy.json")
	}
	require.Zero(t, s.from.Count(registrytest.Kinds(registrytest.KindBlobGet)))
	require.Empty(t, s.to.Count(registrytest.Kinds(registrytest.KindBlobUpload)))
}
