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
	// maxManifestSize bounds a manifest. The OCI distribution specification asks registries to
	// accept 4 MiB; some accept more.
	maxManifestSize = 16 << 20

	// maxErrorSize bounds answers without content, such as errors.
	maxErrorSize = 64 << 10

	digestHeader = "Docker-Content-Digest"
)

// accept is the same for HEAD and GET: with another one, a registry may answer with another
// digest.
var accept = strings.Join([]string{
	string(types.OCIManifestSchema1),
	string(types.OCIImageIndex),
	string(types.DockerManifestSchema2),
	string(types.DockerManifestList),
	string(types.DockerManifestSchema1Signed),
	string(types.DockerManifestSchema1),
}, ", ")

// Head looks up a tag or digest without a pull. It uses a GET, which is a pull, only if the
// registry does not serve HEAD, leaves out the digest, or is known to answer HEAD with 404 for
// existing manifests. ErrNotFound means that the manifest or the repository does not exist, as
// far as HEAD shows; see Find.
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

// Find is Head for manifests that are expected to exist: if HEAD answers 404, it tries a GET,
// which is a pull. Some registries answer HEAD with 404 until a GET has made them fetch the
// manifest, and some always do.
func (c *Client) Find(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	d, err := c.head(ctx, repository, name)
	if !errors.Is(err, ErrNotFound) || d.Pulled {
		return d, err
	}
	return c.FindByGet(ctx, repository, name)
}

// Look is Find for a comparison, in which a wrong ErrNotFound costs a needless copy but does
// no harm. It believes the HEAD of a registry that has answered another one, and that was
// not seen to deny anything, within the last hour.
func (c *Client) Look(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	d, certain, err := c.Glance(ctx, repository, name)
	if certain {
		return d, err
	}
	return c.FindByGet(ctx, repository, name)
}

// Glance is Look without the GET. If it is not certain, ErrNotFound may be wrong: the registry
// has not shown yet that its HEAD can be believed.
func (c *Client) Glance(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (d Descriptor, certain bool, err error) {
	d, err = c.head(ctx, repository, name)
	host, _ := c.host(repository)
	if err == nil && !d.Pulled {
		c.heads.note(host)
	}
	return d, !errors.Is(err, ErrNotFound) || d.Pulled || c.heads.isKnown(host) && !c.denials.isKnown(host), err
}

// FindByGet looks up what HEAD denies.
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

// head sends a HEAD request, and a GET if that has no usable answer.
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

// deniesHead reports whether a registry may refuse all HEADs of manifests. Some do and serve
// GET, which is tried before the guard learns of the failure: otherwise it would close a
// registry that works. A destination also answers 403 if something does not exist.
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

// Get returns the manifest of a tag or digest, at most 16 MiB of it. It checks the content
// against the digest in the reference, if there is one, and against the digest in the answer.
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

// read returns the manifest in an answer after checking its digest. JSON of another kind is a
// pageError, unless its digest is right.
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

// Put stores a manifest, byte for byte, under a tag or its digest. What the manifest refers to
// must be stored already. Put does not maintain fallback tags for referrers: they are tags of
// the source and mirrored as such.
func (c *Client) Put(ctx context.Context, repository reference.Repository, name reference.TagOrDigest, m Manifest) error {
	put := &call{
		op: OpPut, repository: repository, reference: name, method: http.MethodPut,
		scope: transport.PushScope, path: manifests,
		contentType: m.MediaType, body: m.Raw, limit: maxErrorSize, instead: aReceipt,
	}
	got, err := c.send(ctx, put)
	if refused, ok := errors.AsType[*Error](err); ok && (errors.Is(err, ErrRejected) || errors.Is(err, ErrNotFound)) {
		// Many registries answer an unknown media type with only "manifest invalid".
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

// isStored checks a success without a digest, which is optional, by looking up the manifest:
// pages of proxies are successes, too.
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

// digestAs returns the digest of a manifest with the algorithm of another digest. The digest
// of a signed manifest of Docker's schema 1 does not include the signatures.
func digestAs(other reference.Digest, raw []byte) reference.Digest {
	if !bytes.Contains(raw, []byte("signatures")) { // which is quicker than to parse it
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
