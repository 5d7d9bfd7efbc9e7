package registry

import (
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
	// maxManifestSize bounds a manifest. The OCI distribution specification
	// asks registries to accept 4 MiB; some take more.
	maxManifestSize = 16 << 20

	// maxErrorSize bounds the answer of a request without one: errors only.
	maxErrorSize = 64 << 10

	digestHeader = "Docker-Content-Digest"
)

// accept is the same for HEAD and GET: a registry may answer another one with
// another digest.
var accept = strings.Join([]string{
	string(types.OCIManifestSchema1),
	string(types.OCIImageIndex),
	string(types.DockerManifestSchema2),
	string(types.DockerManifestList),
	string(types.DockerManifestSchema1Signed),
	string(types.DockerManifestSchema1),
}, ", ")

// Head looks a tag or digest up without a pull, and with one where the registry
// leaves no other way: it does not serve HEAD, or without the digest, or it has been
// seen to deny what it has. ErrNotFound says that there is no such manifest or no such
// repository, as far as HEAD tells: see Find.
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

// Find is Head for what somebody has named: if HEAD denies it, a GET decides, which is a
// pull. Some registries answer HEAD with 404 until a GET has made them fetch the manifest,
// and some always.
func (c *Client) Find(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	d, err := c.head(ctx, repository, name)
	if !errors.Is(err, ErrNotFound) || d.Pulled {
		return d, err
	}
	return c.findByGet(ctx, repository, name)
}

// Look is Find for a comparison, in which a wrong ErrNotFound costs a needless copy but does
// no harm. It believes the HEAD of a registry that has answered another one, and that was
// not seen to deny anything, within the last hour.
func (c *Client) Look(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	d, err := c.head(ctx, repository, name)
	host, _ := c.host(repository)
	switch {
	case err == nil && !d.Pulled:
		c.heads.note(host)
		return d, nil
	case !errors.Is(err, ErrNotFound), d.Pulled, c.heads.isKnown(host) && !c.denials.isKnown(host):
		return d, err
	}
	return c.findByGet(ctx, repository, name)
}

// findByGet looks up what HEAD denies.
func (c *Client) findByGet(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	d, err := c.headByGet(ctx, repository, name)
	if host, _ := c.host(repository); err == nil {
		c.denials.note(host)
	}
	if failed := (*Error)(nil); !d.Pulled && errors.As(err, &failed) {
		failed.Err = fmt.Errorf("HEAD says not found, and GET has no answer: %w", failed.Err)
	}
	return d, err
}

// head asks with a HEAD request, and with GET where there is no answer to that.
func (c *Client) head(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	got, err := c.send(ctx, call{
		op: OpHead, repository: repository, reference: name, method: http.MethodHead,
		scope: transport.PullScope, path: manifests, accept: accept, limit: maxErrorSize, instead: aManifest,
	})
	if servesNoHead(err) {
		return c.headByGet(ctx, repository, name)
	}
	if err != nil {
		return Descriptor{}, err
	}
	if len(got.body) > 0 {
		m, err := read(got, name)
		if err != nil {
			return Descriptor{Pulled: true}, &Error{Op: OpHead, Repository: repository, Reference: name, Status: got.status, Err: err}
		}
		return pulled(m), nil
	}
	found, err := reference.ParseDigest(got.header.Get(digestHeader))
	if err != nil {
		return c.headByGet(ctx, repository, name)
	}
	if wanted, ok := name.(reference.Digest); ok && wanted.Algorithm() == found.Algorithm() && wanted != found {
		return Descriptor{}, &Error{Op: OpHead, Repository: repository, Reference: name,
			Err: fmt.Errorf("%w: the registry answered with %s", ErrDigestMismatch, found)}
	}
	return Descriptor{
		Digest:    found,
		MediaType: declaredType(got.header),
		Size:      max(got.size, 0),
	}, nil
}

// servesNoHead tells whether a HEAD was refused as such, and not for what it asked.
func servesNoHead(err error) bool {
	failed := (*Error)(nil)
	if !errors.As(err, &failed) {
		return false
	}
	switch failed.Status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return true
	default:
		return false
	}
}

// deniesHead reports whether a HEAD was refused as it would be whatever was asked. Some
// registries serve GET all the same, and a GET says so before the guard hears of it: else
// a registry that is well would be closed. What is written to says with 403 that
// something may not be there.
func (c *Client) deniesHead(call call, err error) bool {
	failed := (*failure)(nil)
	if call.path != manifests || call.method != http.MethodHead || !errors.As(err, &failed) {
		return false
	}
	switch failed.status {
	case http.StatusInternalServerError, http.StatusNotImplemented:
		return true
	case http.StatusForbidden:
		return c.role == source
	default:
		return false
	}
}

// headByGet looks up with a GET. The descriptor of an error tells no more than whether
// it was a pull.
func (c *Client) headByGet(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Descriptor, error) {
	m, err := c.get(ctx, OpHead, repository, name)
	if err != nil {
		failed := (*Error)(nil)
		return Descriptor{Pulled: errors.As(err, &failed) && failed.Status != 0}, err
	}
	return pulled(m), nil
}

// pulled describes a manifest that took a pull.
func pulled(m Manifest) Descriptor {
	return Descriptor{Digest: m.Digest, MediaType: m.MediaType, Size: int64(len(m.Raw)), Pulled: true}
}

// Get returns the manifest of a tag or digest, at most 16 MiB of it, after its
// content has been checked against the reference, if that is a digest, and
// against the digest the registry gives.
func (c *Client) Get(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) (Manifest, error) {
	return c.get(ctx, OpGet, repository, name)
}

func (c *Client) get(ctx context.Context, op string, repository reference.Repository, name reference.TagOrDigest) (Manifest, error) {
	got, err := c.send(ctx, call{
		op: op, repository: repository, reference: name, method: http.MethodGet,
		scope: transport.PullScope, path: manifests, accept: accept, limit: maxManifestSize, instead: aManifest,
	})
	if err != nil {
		return Manifest{}, err
	}
	m, err := read(got, name)
	if err != nil {
		return Manifest{}, &Error{Op: op, Repository: repository, Reference: name, Status: got.status, Err: err}
	}
	return m, nil
}

// read checks an answer and takes the manifest out of it. JSON of another kind is a
// pageError unless a digest vouches for it.
func read(got answer, name reference.TagOrDigest) (Manifest, error) {
	verified, vouched := digestAs(reference.DigestOf(nil), got.body), false
	another := &pageError{got.status, anotherKind, aManifest}
	declared, _ := reference.ParseDigest(got.header.Get(digestHeader)) // it may be absent
	asked, _ := name.(reference.Digest)                                // or a tag
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

// Put stores a manifest, byte for byte, under a tag or its digest. What the
// manifest refers to must be there already. Nothing else is written: no
// fallback tags for referrers, for they are tags of the source and mirrored as
// such.
func (c *Client) Put(ctx context.Context, repository reference.Repository, name reference.TagOrDigest, m Manifest) error {
	got, err := c.send(ctx, call{
		op: OpPut, repository: repository, reference: name, method: http.MethodPut,
		scope: transport.PushScope, path: manifests,
		contentType: m.MediaType, body: m.Raw, limit: maxErrorSize, instead: aReceipt,
	})
	if refused := (*Error)(nil); errors.As(err, &refused) && (errors.Is(err, ErrRejected) || errors.Is(err, ErrNotFound)) {
		// "manifest invalid" is all that many say of a media type that they do not know.
		refused.Err = fmt.Errorf("%w; the manifest is %s", refused.Err, m.Types())
	}
	if err != nil {
		return err
	}
	stored, err := storedAs(got.header)
	if err != nil {
		return c.stored(ctx, repository, name, m, got)
	}
	if ours := digestAs(stored, m.Raw); ours != stored {
		return &Error{Op: OpPut, Repository: repository, Reference: name,
			Err: fmt.Errorf("%w: the registry stored %s instead of %s", ErrDigestMismatch, stored, ours)}
	}
	return nil
}

// stored makes sure that a success without a digest, which is optional, was one: the
// registry is asked. A page says success, too.
func (c *Client) stored(ctx context.Context, repository reference.Repository, name reference.TagOrDigest, m Manifest, got answer) error {
	held, err := c.Find(ctx, repository, name)
	if err == nil && digestAs(held.Digest, m.Raw) == held.Digest {
		return nil
	}
	if err == nil || errors.Is(err, ErrNotFound) {
		return &Error{Op: OpPut, Repository: repository, Reference: name, Err: noReceipt(got)}
	}
	return err
}

// digestAs is the digest of a manifest by the algorithm of another digest. That of a signed
// manifest of Docker's schema 1 leaves the signatures out.
func digestAs(other reference.Digest, raw []byte) reference.Digest {
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

// storedAs is the digest under which a registry says that it has stored a manifest.
func storedAs(header http.Header) (reference.Digest, error) {
	stored, err := reference.ParseDigest(header.Get(digestHeader))
	if err != nil {
		return reference.ParseDigest(path.Base(header.Get("Location")))
	}
	return stored, nil
}
