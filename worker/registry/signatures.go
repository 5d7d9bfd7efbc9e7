package registry

import (
	"context"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/osism/skopeo-worker/shared/reference"
)

// signaturesHeader is set to 1 in the answer to GET /v2/ of registries that store signatures,
// as OpenShift's does (docs/signature-protocols.md of containers/image).
const signaturesHeader = "X-Registry-Supports-Signatures"

// maxSignaturesSize is what containers/image reads of a list of signatures.
const maxSignaturesSize = 4 << 20

// StoresSignatures reports whether the registry of a repository stores signatures itself. It
// sends a request once an hour.
func (c *Client) StoresSignatures(ctx context.Context, repository reference.Repository) (bool, error) {
	ask := &call{op: OpReach, repository: repository}
	at, err := c.locate(repository)
	if err != nil {
		return false, ask.fail(err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, slow(requestTimeout))
	defer cancel()
	ctx, wait := withWait(at.with(ctx, false))
	found, err := c.sessions.challenges.of(ctx, at.registry)
	switch {
	case err == nil:
		return found.signatures, nil
	case statusOf(err) == 0:
		err = unanswered(ctx, at, wait, err)
	}
	return false, ask.fail(err)
}

// Signatures returns the JSON list of the signatures that a registry stores for a digest, if
// StoresSignatures is true.
func (c *Client) Signatures(ctx context.Context, repository reference.Repository, digest reference.Digest) ([]byte, error) {
	get := &call{
		op: OpGet, repository: repository, reference: digest, method: http.MethodGet,
		scope: transport.PullScope, accept: "application/json", limit: maxSignaturesSize,
	}
	at, err := c.locate(repository)
	if err != nil {
		return nil, get.fail(err)
	}
	get.url = &url.URL{Scheme: "https", Host: at.registry.RegistryStr(), Path: "/extensions/v2/" + at.path() + "/signatures/" + digest.String()}
	got, err := c.send(ctx, get)
	return got.body, err
}
