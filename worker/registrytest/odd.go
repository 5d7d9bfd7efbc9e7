package registrytest

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containers/libtrust"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/manifest"
)

// oddities are manifests that distribution does not support: those of Docker's schema 1, and
// those under a digest other than SHA-256. The zero value has none.
type oddities struct {
	mu           sync.Mutex
	repositories map[string]map[string]odd // by tag and digest
}

type odd struct {
	digest    string
	mediaType string
	payload   []byte
}

func isOdd(mediaType, ref string) bool {
	dgst, err := digest.Parse(ref)
	return types.MediaType(mediaType).IsSchema1() || err == nil && dgst.Algorithm() != digest.SHA256
}

// digestOf returns the digest of a manifest, with the algorithm of ref if that is a digest.
func digestOf(ref string, payload []byte) (string, error) {
	algorithm := digest.SHA256
	if dgst, err := digest.Parse(ref); err == nil {
		algorithm = dgst.Algorithm()
	}
	dgst, err := manifest.DigestWithAlgorithm(payload, algorithm)
	return dgst.String(), err
}

func (o *oddities) find(repository, ref string) (odd, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	found, ok := o.repositories[repository][ref]
	return found, ok
}

// tags returns the tags of a repository with odd manifests.
func (o *oddities) tags(repository string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Keys(o.repositories[repository])), func(ref string) bool {
		return digest.Digest(ref).Validate() == nil
	})
}

func (o *oddities) store(repository, ref string, m odd) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.repositories == nil {
		o.repositories = map[string]map[string]odd{}
	}
	if o.repositories[repository] == nil {
		o.repositories[repository] = map[string]odd{}
	}
	o.repositories[repository][m.digest] = m
	if ref != "" {
		o.repositories[repository][ref] = m
	}
}

// serves answers requests about odd manifests. It returns false for others.
func (o *oddities) serves(w http.ResponseWriter, req *http.Request, request Request) bool {
	switch request.Kind {
	case KindManifestHead, KindManifestGet:
		m, ok := o.find(request.Repository, request.Reference)
		if !ok {
			return false
		}
		w.Header().Set("Content-Type", m.mediaType)
		w.Header().Set("Content-Length", strconv.Itoa(len(m.payload)))
		w.Header().Set("Docker-Content-Digest", m.digest)
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(m.payload) // of a HEAD, net/http leaves it out
		return true
	case KindManifestPut:
		mediaType := req.Header.Get("Content-Type")
		if !isOdd(mediaType, request.Reference) {
			return false
		}
		payload, _ := io.ReadAll(req.Body) // a client that has disconnected gets no answer
		dgst, err := digestOf(request.Reference, payload)
		if err != nil || digest.Digest(request.Reference).Validate() == nil && dgst != request.Reference {
			writeError(w, http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content")
			return true
		}
		o.store(request.Repository, request.Reference, odd{dgst, mediaType, payload})
		w.Header().Set("Docker-Content-Digest", dgst)
		w.WriteHeader(http.StatusCreated)
		return true
	}
	return false
}

// PushSchema1 stores an image of Docker's schema 1 with a signature. The registry must be one
// WithOddManifests.
func (r *Registry) PushSchema1(repository, tag string, layers ...Layer) (string, error) {
	var listed, history []string
	parent := ""
	for i, layer := range slices.Concat(layers, layers[:1]) { // layers repeat
		built, err := layer.build(true)
		if err != nil {
			return "", err
		}
		described, err := r.pushLayer(repository, built)
		if err != nil {
			return "", err
		}
		id := fmt.Sprintf("%064x", i+1)
		compatible := fmt.Sprintf(`{"id":%q%s,"architecture":"amd64","os":"linux"}`, id, parent)
		parent = fmt.Sprintf(`,"parent":%q`, id)
		listed = append([]string{fmt.Sprintf(`{"blobSum": %q}`, described.Digest)}, listed...)
		history = append([]string{fmt.Sprintf(`{"v1Compatibility": %q}`, compatible)}, history...)
	}
	signed, err := sign(fmt.Appendf(nil, `{
   "schemaVersion": 1,
   "name": %q,
   "tag": %q,
   "architecture": "amd64",
   "fsLayers": [
      %s
   ],
   "history": [
      %s
   ]
}`, repository, tag, strings.Join(listed, ",\n      "), strings.Join(history, ",\n      ")))
	if err != nil {
		return "", err
	}
	return r.PushOdd(repository, tag, types.DockerManifestSchema1Signed, signed)
}

func sign(payload []byte) ([]byte, error) {
	key, err := libtrust.GenerateECP256PrivateKey()
	if err != nil {
		return nil, err
	}
	signature, err := libtrust.NewJSONSignature(payload)
	if err != nil {
		return nil, err
	}
	if err := signature.Sign(key); err != nil {
		return nil, err
	}
	return signature.PrettySignature("signatures")
}

// PushOdd stores a manifest that distribution does not support, under a tag or under a digest
// of another algorithm. The registry must be one WithOddManifests.
func (r *Registry) PushOdd(repository, ref string, mediaType types.MediaType, payload []byte) (string, error) {
	dgst, err := digestOf(ref, payload)
	if err != nil {
		return "", fmt.Errorf("push %s to %s: %w", ref, repository, err)
	}
	r.odd.store(repository, ref, odd{dgst, string(mediaType), payload})
	return dgst, nil
}
