package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/manifest"

	"github.com/osism/skopeo-worker/shared/reference"
)

const (
	// maxManifestSize limits manifests. The OCI distribution specification requires registries to
	// accept 4 MiB; some accept more.
	maxManifestSize = 16 << 20

	// maxErrorSize limits answers without content, such as errors.
	maxErrorSize = 64 << 10

	digestHeader = "Docker-Content-Digest"
)

// accept is the same for HEAD and GET, because a registry may convert a manifest for another one.
var accept = strings.Join([]string{
	string(types.OCIManifestSchema1),
	string(types.OCIImageIndex),
	string(types.DockerManifestSchema2),
	string(types.DockerManifestList),
	string(types.DockerManifestSchema1Signed),
	string(types.DockerManifestSchema1),
}, ", ")

// Head looks up a tag or digest without a pull. It sends a GET, which is a pull, only if the registry
// does not serve HEAD, leaves out the digest, or is known to answer HEAD with 404 for existing
// manifests. ErrNotFound means that the manifest or the repository does not exist, but the HEAD of
// some registries is wrong; see Find.
func (c *Client) Head(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	d, err := c.head(ctx, repository, name)
	if !errors.Is(err, ErrNotFound) || d.Pulled {
		return d, err
	}
	if host, _ := c.host(repository); c.denials.isKnown(host) {
		return c.headByGet(ctx, repository, name)
	}
	return d, err
}

// Find is Head for manifests that should exist: if HEAD answers 404, it sends a GET, which is a pull.
// Some registries answer HEAD with 404 until a GET makes them fetch the manifest, and some always.
func (c *Client) Find(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	d, err := c.head(ctx, repository, name)
	if !errors.Is(err, ErrNotFound) || d.Pulled {
		return d, err
	}
	return c.FindByGet(ctx, repository, name)
}

// Look is Find for a comparison, in which a wrong ErrNotFound costs only a needless copy. It relies on
// the HEAD of a registry if in the last hour, the registry has answered another HEAD with a digest, and
// none wrongly with 404.
func (c *Client) Look(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	d, certain, err := c.Glance(ctx, repository, name)
	if certain {
		return d, err
	}
	return c.FindByGet(ctx, repository, name)
}

// Glance is Look without the GET. If it is not certain, ErrNotFound may be wrong.
func (c *Client) Glance(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (d Descriptor, certain bool, err error) {
	d, err = c.head(ctx, repository, name)
	host, _ := c.host(repository)
	if err == nil && !d.Pulled {
		c.heads.note(host)
	}
	return d, !errors.Is(err, ErrNotFound) || d.Pulled || c.heads.isKnown(host) && !c.denials.isKnown(host), err
}

// FindByGet looks up a manifest with a GET after HEAD has answered 404.
func (c *Client) FindByGet(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	d, err := c.headByGet(ctx, repository, name)
	if host, _ := c.host(repository); err == nil {
		c.denials.note(host)
	}
	if failed, ok := errors.AsType[*Error](err); ok && !d.Pulled && !errors.Is(err, ErrNotFound) {
		failed.Err = fmt.Errorf("%w, and GET failed: %w", ErrHeadDenied, failed.Err)
	}
	return d, err
}

// head sends a HEAD, and a GET if the answer has no digest.
func (c *Client) head(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	look := manifestCall(OpHead, http.MethodHead, repository, name, maxErrorSize)
	got, err := c.send(ctx, look)
	if servesNoHead(err) {
		return c.headByGet(ctx, repository, name)
	}
	if err != nil {
		return Descriptor{}, err
	}
	if len(got.body) > 0 {
		m, err := read(got, name)
		if err != nil {
			return Descriptor{Pulled: true}, look.fail(&failure{status: got.status, cause: err})
		}
		return pulled(m), nil
	}
	found, err := reference.ParseDigest(got.header.Get(digestHeader))
	if err != nil {
		return c.headByGet(ctx, repository, name)
	}
	if wanted, ok := name.(reference.Digest); ok && wanted.Algorithm() == found.Algorithm() && wanted != found {
		return Descriptor{}, look.fail(fmt.Errorf("%w: the registry answered with %s", ErrDigestMismatch, found))
	}
	return Descriptor{
		Digest:    found,
		MediaType: declaredType(got.header),
		Size:      max(got.size, 0),
	}, nil
}

// servesNoHead reports whether the registry refused a request because it is a HEAD.
func servesNoHead(err error) bool {
	switch statusOf(err) {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return true
	}
	return false
}

// deniesHead reports whether a registry may refuse all HEADs of manifests, and serve GET. The GET is
// sent before the guard sees the failure, so that it does not close a registry that works. A
// destination also answers 403 if a repository does not exist.
func (c *Client) deniesHead(call *call, err error) bool {
	if call.path != manifests || call.method != http.MethodHead {
		return false
	}
	switch statusOf(err) {
	case http.StatusInternalServerError, http.StatusNotImplemented:
		return true
	case http.StatusForbidden:
		return c.role == source || errors.Is(err, errStorage)
	}
	return false
}

// headByGet looks up a tag or digest with a GET. If it returns an error, only Pulled of the
// descriptor is valid.
func (c *Client) headByGet(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	m, err := c.get(ctx, OpHead, repository, name)
	if err != nil {
		return Descriptor{Pulled: statusOf(err) != 0}, err
	}
	return pulled(m), nil
}

// pulled returns the descriptor of a manifest that was pulled.
func pulled(m Manifest) Descriptor {
	return Descriptor{Digest: m.Digest, MediaType: m.MediaType, Size: int64(len(m.Raw)), Pulled: true}
}

// Get returns the manifest of a tag or digest, which may have up to 16 MiB. It compares its digest
// with the one in the reference, if any, and the one in the answer.
func (c *Client) Get(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Manifest, error) {
	return c.get(ctx, OpGet, repository, name)
}

func (c *Client) get(ctx context.Context, op string, repository reference.Repository, name reference.TagOrDigest) (Manifest, error) {
	get := manifestCall(op, http.MethodGet, repository, name, maxManifestSize)
	got, err := c.send(ctx, get)
	if err != nil {
		return Manifest{}, err
	}
	m, err := read(got, name)
	if err != nil {
		return Manifest{}, get.fail(&failure{status: got.status, cause: err})
	}
	return m, nil
}

// manifestCall returns a request for a manifest whose answer has at most limit bytes.
func manifestCall(op, method string, repository reference.Repository, name reference.TagOrDigest, limit int64) *call {
	return &call{
		op: op, repository: repository, reference: name, method: method, scope: transport.PullScope,
		path: manifests, accept: accept, limit: limit, instead: aManifest,
	}
}

// read returns the manifest in an answer after it has checked the digest. If the content is not a
// manifest, the error is a pageError, unless the digest is right.
func read(got answer, name reference.TagOrDigest) (Manifest, error) {
	verified, vouched := digestAs(reference.DigestOf(nil), got.body), false
	another := &pageError{got.status, anotherKind, aManifest}
	declared, _ := reference.ParseDigest(got.header.Get(digestHeader)) // optional
	asked, _ := name.(reference.Digest)                                // zero for a tag
	for _, wanted := range []reference.Digest{declared, asked} {
		if wanted.IsZero() {
			continue
		}
		if actual := digestAs(wanted, got.body); actual != wanted {
			if _, err := mediaType(got.body, nil); err != nil && declared.IsZero() {
				return Manifest{}, another
			}
			return Manifest{}, fmt.Errorf("%w: the content of %s has the digest %s", ErrDigestMismatch, wanted, actual)
		}
		verified, vouched = wanted, true
	}
	kind, err := mediaType(got.body, got.header)
	switch {
	case err != nil && !vouched:
		return Manifest{}, another
	case err != nil:
		return Manifest{}, err
	}
	return Manifest{Raw: got.body, MediaType: kind, Digest: verified}, nil
}

// Put stores a manifest, byte for byte, under a tag or its digest. The blobs and manifests that it
// refers to must be stored already. Put does not update the fallback tag of referrers.
func (c *Client) Put(ctx context.Context, repository reference.Repository, name reference.TagOrDigest, m Manifest) error {
	put := &call{
		op: OpPut, repository: repository, reference: name, method: http.MethodPut,
		scope: transport.PushScope, path: manifests,
		contentType: m.MediaType, body: m.Raw, limit: maxErrorSize, instead: aReceipt,
	}
	got, err := c.send(ctx, put)
	if refused, ok := errors.AsType[*Error](err); ok && (errors.Is(err, ErrRejected) || errors.Is(err, ErrNotFound)) {
		// For an unknown media type, many registries answer only "manifest invalid".
		refused.Err = fmt.Errorf("%w; the manifest is %s", refused.Err, m.Types())
		if errors.Is(err, errUnknown) {
			refused.Err = fmt.Errorf("%w: %v", ErrBlobUnknown, refused.Err)
		}
	}
	if err != nil {
		return err
	}
	stored, err := storedAs(got.header)
	if err != nil {
		return c.isStored(ctx, put, m, got)
	}
	if ours := digestAs(stored, m.Raw); ours != stored {
		return put.fail(fmt.Errorf("%w: the registry stored %s instead of %s", ErrDigestMismatch, stored, ours))
	}
	return nil
}

// isStored looks up a manifest after a successful answer without a digest, which is optional: the
// answer may be a page of a proxy.
func (c *Client) isStored(ctx context.Context, put *call, m Manifest, got answer) error {
	held, err := c.Find(ctx, put.repository, put.reference)
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		return err
	case err == nil && digestAs(held.Digest, m.Raw) == held.Digest:
		return nil
	}
	return about(noReceipt(got), OpPut, put.repository, put.reference)
}

// digestAs returns the digest of a manifest with the algorithm of another digest. For a signed
// manifest of Docker's schema 1, it leaves out the signatures.
func digestAs(other reference.Digest, raw []byte) reference.Digest {
	if !bytes.Contains(raw, []byte("signatures")) { // quicker than parsing
		return other.Of(raw)
	}
	unsigned, err := manifest.DigestWithAlgorithm(raw, digest.Algorithm(other.Algorithm()))
	if err != nil {
		return other.Of(raw)
	}
	found, err := reference.ParseDigest(unsigned.String())
	if err != nil {
		return other.Of(raw)
	}
	return found
}

// storedAs returns the digest under which a registry has stored a manifest, according to its
// answer.
func storedAs(header http.Header) (reference.Digest, error) {
	stored, err := reference.ParseDigest(header.Get(digestHeader))
	if err != nil {
		return reference.ParseDigest(path.Base(header.Get("Location")))
	}
	return stored, nil
}
