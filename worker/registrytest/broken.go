package registrytest

import (
	"context"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

// BreakImage takes the last layer of an image, of the first image in an index,
// from the registry: its manifest can be had, the layer is unknown. Images of
// the repository that share the layer break, too. mend puts it back; so does
// pushing the layer again.
func (r *Registry) BreakImage(repository, ref string) (layer string, mend func() error, err error) {
	payload, err := r.Manifest(repository, ref)
	if err != nil {
		return "", nil, err
	}
	var manifest contents
	if err := json.Unmarshal(payload, &manifest); err != nil {
		return "", nil, fmt.Errorf("read %s in %s: %w", ref, repository, err)
	}
	if len(manifest.Manifests) > 0 {
		return r.BreakImage(repository, manifest.Manifests[0].Digest.String())
	}
	if len(manifest.Layers) == 0 {
		return "", nil, fmt.Errorf("break %s in %s: it has no layers", ref, repository)
	}
	layer = manifest.Layers[len(manifest.Layers)-1].Digest.String()
	mend, err = r.BreakBlob(repository, layer)
	return layer, mend, err
}

// contents is what a manifest or an index names.
type contents struct {
	Config    *v1.Descriptor  `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
	Manifests []v1.Descriptor `json:"manifests"`
	FSLayers  []struct {      // Docker schema 1
		BlobSum string `json:"blobSum"`
	} `json:"fsLayers"`
}

// BreakBlob takes a blob from a repository; mend puts it back.
func (r *Registry) BreakBlob(repository, dgst string) (mend func() error, err error) {
	repo, err := r.repository(repository)
	if err != nil {
		return nil, err
	}
	content, err := r.Blob(repository, dgst)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if err := repo.Blobs(ctx).Delete(ctx, digest.Digest(dgst)); err != nil {
		return nil, r.missing(err, "delete blob %s from %s", dgst, repository)
	}
	return func() error {
		_, err := r.PushBlob(repository, content)
		return err
	}, nil
}

// DeleteManifest takes a manifest from a repository and leaves the tags and
// indexes that name it.
func (r *Registry) DeleteManifest(repository, dgst string) error {
	repo, err := r.repository(repository)
	if err != nil {
		return err
	}
	ctx := context.Background()
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return err
	}
	if err := manifests.Delete(ctx, digest.Digest(dgst)); err != nil {
		return r.missing(err, "delete manifest %s from %s", dgst, repository)
	}
	return nil
}
