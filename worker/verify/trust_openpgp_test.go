//go:build containers_image_openpgp

package verify_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/verify"
)

// scoped returns a policy with this requirement for images of the scope, which rejects all others.
func scoped(scope, requirement string) string {
	return fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[%s]}}}`, scope, requirement)
}

// trust sets SIGNATURE_POLICY.
func (s *site) trust(t *testing.T, text string) *verify.Trust {
	t.Helper()
	return s.observed(t, text, nil)
}

func (s *site) observed(t *testing.T, text string, observe func(registry, result string)) *verify.Trust {
	t.Helper()
	p, err := policy.Read(s.write(t, "trust.json", text))
	require.NoError(t, err)
	insecure := []string{s.from.Host(), s.to.Host()}
	trust := verify.NewTrust(p, s.Registry, registry.NewTransport(insecure, registry.DefaultStall), observe)
	s.Trust = trust
	return trust
}

// ask verifies a tag; if it is empty, the digest.
func (s *site) ask(t *testing.T, tag, digest string) error {
	t.Helper()
	var asked reference.Tag
	if tag != "" {
		asked = reference.MustTag(tag)
	}
	_, errs := s.Verify(t.Context(), s.source(), reference.MustDigest(digest), []reference.Tag{asked})
	return errs[0]
}

// rejected requires that the policy has rejected an image, with a reason that contains why.
func rejected(t *testing.T, err error, why string) {
	t.Helper()
	require.ErrorIs(t, err, policy.ErrRejected)
	require.ErrorContains(t, err, why)
	require.Equal(t, outcome.Final, outcome.Classify(err))
	require.NotContains(t, err.Error(), "\n")
}

// TestTrustScopes: the most specific scope counts. If it decides by the name, nothing is pulled.
func TestTrustScopes(t *testing.T) {
	s := newSite(t)
	digest := push(t, s)
	const accept, reject = `{"type":"insecureAcceptAnything"}`, `{"type":"reject"}`
	host, name := s.from.Host(), s.source().String()
	for _, scope := range []string{host, host + "/osism", name, name + ":1", ""} {
		s.trust(t, scoped(scope, accept))
		require.NoError(t, s.ask(t, "1", digest), scope)
	}
	for _, scope := range []string{host + "/other", name + ":2", name + "/below", "docker.io"} {
		s.trust(t, scoped(scope, accept))
		rejected(t, s.ask(t, "1", digest), "is rejected by policy")
	}
	s.trust(t, fmt.Sprintf(`{"default":[%s],"transports":{"docker":{%q:[%s],%q:[%s],%q:[%s]}}}`, reject, host, accept, name, reject, name+":1", accept))
	require.NoError(t, s.ask(t, "1", digest))
	rejected(t, s.ask(t, "2", digest), "is rejected by policy")
	rejected(t, s.ask(t, "", digest), "is rejected by policy")
	require.Zero(t, s.from.Pulls(), "the name is enough")

	none := func(context.Context) (registry.Manifest, error) { panic("the name is enough") }
	trust := s.trust(t, scoped("docker.io/library/nginx", accept))
	for _, name := range []string{"nginx", "docker.io/nginx", "docker.io/library/nginx", "index.docker.io/library/nginx", "registry-1.docker.io/library/nginx"} {
		parsed, err := reference.Parse(name + ":1.25")
		require.NoError(t, err)
		_, errs := trust.Verify(t.Context(), parsed.Repository, reference.MustDigest(digest), []reference.Tag{parsed.Tag}, none)
		require.NoError(t, errs[0], name)
	}
	_, errs := trust.Verify(t.Context(), reference.MustRepository("docker.io/library/redis"), reference.MustDigest(digest), []reference.Tag{reference.MustTag("7")}, none)
	rejected(t, errs[0], "docker.io/library/redis:7")
}

// identity adds a signedIdentity to a requirement.
func identity(requirement, identity string) string {
	return strings.TrimSuffix(requirement, "}") + `,"signedIdentity":` + identity + "}"
}

// TestTrustNames: a signature must be for the name of the image at the source.
func TestTrustNames(t *testing.T) {
	s := newSite(t)
	digest := push(t, s)
	name := s.source().String()
	const matchExact, matchRepository = `{"type":"matchExact"}`, `{"type":"matchRepository"}`
	for _, test := range []struct {
		signed, identity, tag string
		accepted              bool
	}{
		{name + ":1", "", "1", true},
		{name + ":1", "", "2", false}, // an old release under a new tag
		{name + ":1", "", "", true},   // by its digest
		{name, "", "1", false},
		{s.from.Host() + "/osism/other:1", "", "1", false},
		{"quay.io/osism/tool:1", "", "1", false},
		{name + ":1", matchExact, "1", true},
		{name + ":1", matchExact, "2", false},
		{name + ":1", matchExact, "", false},
		{name, matchRepository, "2", true},
		{name + ":7", matchRepository, "2", true},
		{s.from.Host() + "/osism/other", matchRepository, "1", false},
		{"quay.io/osism/tool:1", `{"type":"exactReference","dockerReference":"quay.io/osism/tool:1"}`, "9", true},
		{"quay.io/osism/tool:2", `{"type":"exactReference","dockerReference":"quay.io/osism/tool:1"}`, "1", false},
		{"quay.io/osism/tool", `{"type":"exactRepository","dockerRepository":"quay.io/osism/tool"}`, "9", true},
		{name + ":1", `{"type":"exactRepository","dockerRepository":"quay.io/osism/tool"}`, "1", false},
		{"quay.io/osism/tool:1", fmt.Sprintf(`{"type":"remapIdentity","prefix":%q,"signedPrefix":"quay.io"}`, s.from.Host()), "1", true},
		{"quay.io/osism/tool:2", fmt.Sprintf(`{"type":"remapIdentity","prefix":%q,"signedPrefix":"quay.io"}`, s.from.Host()), "1", false},
	} {
		requirement := s.signedBy(t)
		if test.identity != "" {
			requirement = identity(requirement, test.identity)
		}
		s.trust(t, scoped(s.from.Host(), requirement))
		s.sign(t, s.key, test.signed, digest)
		err := s.ask(t, test.tag, digest)
		if test.accepted {
			require.NoError(t, err, test)
		} else {
			rejected(t, err, "Signature for identity")
		}
	}
}

// public writes the public half of a key.
func (s *site) public(t *testing.T, key *openpgp.Entity) string {
	t.Helper()
	var text bytes.Buffer
	w, err := armor.Encode(&text, openpgp.PublicKeyType, nil)
	require.NoError(t, err)
	require.NoError(t, key.Serialize(w))
	require.NoError(t, w.Close())
	return s.write(t, "other.asc", text.String())
}

// TestTrustKeys: signatures of other keys, and of an expired key, do not count.
func TestTrustKeys(t *testing.T) {
	s := newSite(t)
	digest := push(t, s)
	s.trust(t, scoped(s.from.Host(), s.signedBy(t)))
	rejected(t, s.ask(t, "1", digest), "no signature exists")
	stranger, err := openpgp.NewEntity("Other", "", "other@example.com", nil)
	require.NoError(t, err)
	s.sign(t, stranger, s.source().String()+":1", digest)
	rejected(t, s.ask(t, "1", digest), "Key not found")

	long := time.Now().Add(-48 * time.Hour)
	expired, err := openpgp.NewEntity("Old", "", "old@example.com", &packet.Config{Time: func() time.Time { return long }, KeyLifetimeSecs: 3600})
	require.NoError(t, err)
	s.trust(t, scoped(s.from.Host(), fmt.Sprintf(`{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}`, s.public(t, expired))))
	s.signAt(t, expired, s.source().String()+":1", digest, long.Add(time.Minute))
	rejected(t, s.ask(t, "1", digest), "key expired")
}

// signAt signs at another time.
func (s *site) signAt(t *testing.T, by *openpgp.Entity, name, digest string, at time.Time) {
	t.Helper()
	var signed bytes.Buffer
	w, err := openpgp.Sign(&signed, by, nil, &packet.Config{Time: func() time.Time { return at }})
	require.NoError(t, err)
	_, err = fmt.Fprintf(w, `{"critical":{"type":"atomic container signature","image":{"docker-manifest-digest":%q},"identity":{"docker-reference":%q}},"optional":{}}`, digest, name)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	folder := filepath.Join(s.storage, repository+"@"+strings.Replace(digest, ":", "=", 1))
	require.NoError(t, os.MkdirAll(folder, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "signature-1"), signed.Bytes(), 0o600))
}

// TestTrustLookaside: if the server of signatures does not answer, the image is neither accepted
// nor rejected.
func TestTrustLookaside(t *testing.T) {
	s := newSite(t)
	digest := push(t, s)
	s.sign(t, s.key, s.source().String()+":1", digest)
	status := http.StatusOK
	files := http.FileServer(http.Dir(s.storage))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	s.lookaside(t, server.URL)
	s.trust(t, scoped(s.from.Host(), s.signedBy(t)))
	for _, status = range []int{http.StatusServiceUnavailable, http.StatusInternalServerError, http.StatusTooManyRequests} {
		err := s.ask(t, "1", digest)
		require.ErrorContains(t, err, fmt.Sprint("answered ", status))
		require.Equal(t, outcome.Transient, outcome.Classify(err))
	}
	for _, status = range []int{http.StatusForbidden, http.StatusNotFound} {
		rejected(t, s.ask(t, "1", digest), "")
	}
	status = http.StatusOK
	require.NoError(t, s.ask(t, "1", digest))
	server.Close()
	other, err := s.from.PushImage(repository, "2", registrytest.Image{Version: "2"})
	require.NoError(t, err)
	err = s.ask(t, "2", other)
	require.Equal(t, outcome.Transient, outcome.Classify(err), err)
	require.NotErrorIs(t, err, policy.ErrRejected)
}

// TestTrustOfRegistriesThatStoreSignatures: the registry's signature extension takes precedence
// over a lookaside server.
func TestTrustOfRegistriesThatStoreSignatures(t *testing.T) {
	s := newSite(t)
	digest := push(t, s)
	list, err := json.Marshal(map[string]any{"signatures": []any{map[string]any{
		"schemaVersion": 2, "type": "atomic", "name": digest + "@1", "content": signature(t, s.key, s.source().String()+":1", digest),
	}}})
	require.NoError(t, err)
	s.from.Inject(registrytest.Fault{
		Match:  func(r registrytest.Request) bool { return r.Path == "/v2/" },
		Status: http.StatusOK, Header: http.Header{"X-Registry-Supports-Signatures": {"1"}, "Docker-Distribution-Api-Version": {"registry/2.0"}}, Body: "{}",
	})
	path := "/extensions/v2/" + repository + "/signatures/" + digest
	mend := s.from.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool { return r.Path == path }, Status: http.StatusBadGateway, Times: 1})
	s.from.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool { return r.Path == path }, Status: http.StatusOK, Body: string(list)})
	s.trust(t, scoped(s.from.Host(), s.signedBy(t)))
	err = s.ask(t, "1", digest)
	require.Equal(t, outcome.Transient, outcome.Classify(err), err)
	mend()
	require.NoError(t, s.ask(t, "1", digest))
	rejected(t, s.ask(t, "2", digest), "Signature for identity")
}

// TestTrustIsTheSources: mirrors in registries.conf, which the worker does not use, have no effect
// on the verdict. registries.d may disable a place of signatures.
func TestTrustIsTheSources(t *testing.T) {
	s := newSite(t)
	digest := push(t, s)
	conf := s.write(t, "registries.conf", fmt.Sprintf("[[registry]]\nprefix=%q\nlocation=\"127.0.0.1:1\"\n[[registry.mirror]]\nlocation=\"127.0.0.1:2\"\n", s.from.Host()+"/osism"))
	t.Setenv("CONTAINERS_REGISTRIES_CONF", conf)
	s.trust(t, scoped(s.source().String(), identity(s.key1(t, digest, ""), `{"type":"matchRepository"}`)))
	require.NoError(t, s.ask(t, "1", digest))
	require.Equal(t, 2, s.from.Pulls(), "the image and its signature")
	require.NoError(t, s.ask(t, "1", digest), "which is remembered")
	require.Equal(t, 2, s.from.Pulls())

	folder := filepath.Join(home, ".config/containers/registries.d")
	file := filepath.Join(folder, "default.yaml")
	for text, why := range map[string]string{
		"default-docker:\n  use-sigstore-attachments: false\n": "no signature exists",
		"default-docker: {lookaside: \"file:///nowhere\"}\n":   "",
		"default-docker: [\n": "registries.d",
	} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		s.trust(t, scoped(s.source().String(), identity(s.key1(t, digest, ""), `{"type":"matchRepository"}`)))
		err := s.ask(t, "1", digest)
		require.NoError(t, os.Remove(file))
		if why == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, why)
		}
	}
}

// TestSignaturesAreNotCopied: skopeo does not copy signatures, which could fail, or write them to
// this machine.
func TestSignaturesAreNotCopied(t *testing.T) {
	s := newSite(t)
	digest := push(t, s)
	t.Setenv("CONTAINERS_POLICY_JSON", s.write(t, "policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`))
	s.key1(t, digest, "")
	s.sign(t, s.key, s.source().String()+":1", digest)
	folder, staging := filepath.Join(home, ".config/containers/registries.d"), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, strings.ReplaceAll(s.from.Host(), ":", "-")+".yaml"),
		fmt.Appendf(nil, "docker:\n  %s:\n    use-sigstore-attachments: true\n    lookaside: file://%s\n  %s:\n    lookaside: file://%s\n",
			s.from.Host(), s.storage, s.to.Host(), staging), 0o600))
	require.NoError(t, s.bySkopeo(t.Context(), digest))
	written, err := os.ReadDir(staging)
	require.NoError(t, err)
	require.Empty(t, written)
}

// key1 signs a digest with a new key, as cosign does, and returns a requirement of that key.
func (s *site) key1(t *testing.T, digest, suffix string) string {
	t.Helper()
	key, public, err := registrytest.NewSigningKey()
	require.NoError(t, err)
	_, err = s.from.Sign(repository, registrytest.Signature{Key: key, Digest: digest, Name: s.source().String() + suffix}, "")
	require.NoError(t, err)
	return fmt.Sprintf(`{"type":"sigstoreSigned","keyData":%q}`, base64.StdEncoding.EncodeToString(public))
}

// TestTrustOfSeveralTags: signatures are read once for all tags of an image.
func TestTrustOfSeveralTags(t *testing.T) {
	s := newSite(t)
	digest := push(t, s)
	results := map[string]int{}
	s.observed(t, scoped(s.from.Host(), s.key1(t, digest, ":1")), func(registry, result string) { results[registry+" "+result]++ })
	tags := []reference.Tag{reference.MustTag("1"), reference.MustTag("2"), reference.MustTag("3")}
	pulls, errs := s.Verify(t.Context(), s.source(), reference.MustDigest(digest), tags)
	require.NoError(t, errs[0])
	rejected(t, errs[1], s.source().String()+":2: ")
	rejected(t, errs[2], s.source().String()+":3: ")
	require.Equal(t, 2, pulls)
	require.Equal(t, 2, s.from.Pulls())
	require.Equal(t, map[string]int{s.from.Host() + " accepted": 1, s.from.Host() + " rejected": 2}, results)

	other, err := s.from.PushImage(repository, "4", registrytest.Image{Version: "4"})
	require.NoError(t, err)
	s.from.Inject(registrytest.Fault{Match: registrytest.Ref(registrytest.SignatureTag(other)), Status: http.StatusBadGateway})
	require.Error(t, s.ask(t, "4", other))
	require.Equal(t, 1, results[s.from.Host()+" unknown"])
}

// TestTrustOfDockerHub: signatures of Docker Hub's images are read from its registry, with a token,
// under the images' usual names.
func TestTrustOfDockerHub(t *testing.T) {
	internet := registrytest.NewInternet(t, nil, nil)
	client := registry.NewClient(registry.Options{Transport: internet.Transport})
	key, public, err := registrytest.NewSigningKey()
	require.NoError(t, err)
	for image, at := range map[string]*registrytest.Registry{"nginx:1.25": internet.Hub, "registry-1.docker.io/osism/tool:1.25": internet.Hub, "quay.io/osism/tool:1.25": internet.Quay} {
		parsed, err := reference.Parse(image)
		require.NoError(t, err)
		digest, err := at.PushImage(parsed.Repository.Path(), "1.25", registrytest.Image{})
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "policy.json")
		name := parsed.Repository.String()
		require.NoError(t, os.WriteFile(path, []byte(scoped(name, fmt.Sprintf(`{"type":"sigstoreSigned","keyData":%q}`, base64.StdEncoding.EncodeToString(public)))), 0o600))
		p, err := policy.Read(path)
		require.NoError(t, err)
		trust := verify.NewTrust(p, client, internet.Transport, nil)
		ask := func() error {
			_, errs := trust.Verify(t.Context(), parsed.Repository, reference.MustDigest(digest), []reference.Tag{parsed.Tag}, func(ctx context.Context) (registry.Manifest, error) {
				return client.Get(ctx, parsed.Repository, reference.MustDigest(digest))
			})
			return errs[0]
		}
		rejected(t, ask(), "no signature exists")
		_, err = at.Sign(parsed.Repository.Path(), registrytest.Signature{Key: key, Digest: digest, Name: name + ":1.25"}, "")
		require.NoError(t, err)
		require.NoError(t, ask(), image)
	}
}
