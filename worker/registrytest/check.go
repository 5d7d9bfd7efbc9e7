package registrytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

// Check returns an error for everything that a tag or digest refers to and the repository does
// not have; nil means that it can be pulled completely. Each error wraps ErrNotFound.
func (r *Registry) Check(repository, ref string) error {
	payload, err := r.Manifest(repository, ref)
	if err != nil {
		return err
	}
	var below contents
	if err := json.Unmarshal(payload, &below); err != nil {
		return fmt.Errorf("read %s in %s: %w", ref, repository, err)
	}
	var problems []error
	for _, child := range below.Manifests {
		if isBlob(child) {
			problems = append(problems, r.checkBlob(repository, child.Digest.String()))
			continue
		}
		problems = append(problems, r.Check(repository, child.Digest.String()))
	}
	if below.Config != nil {
		problems = append(problems, r.checkBlob(repository, below.Config.Digest.String()))
	}
	for _, layer := range below.FSLayers {
		problems = append(problems, r.checkBlob(repository, layer.BlobSum))
	}
	for _, layer := range below.Layers {
		problems = append(problems, r.checkBlob(repository, layer.Digest.String()))
	}
	return errors.Join(problems...)
}

// isBlob reports whether an entry of an index is a blob, as in BuildKit's cache.
func isBlob(d v1.Descriptor) bool {
	return !d.MediaType.IsIndex() && !d.MediaType.IsImage() && !d.MediaType.IsSchema1()
}

func (r *Registry) checkBlob(repository, dgst string) error {
	repo, err := r.repository(repository)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if _, err := repo.Blobs(ctx).Stat(ctx, digest.Digest(dgst)); err != nil {
		return r.missing(err, "find blob %s in %s", dgst, repository)
	}
	return nil
}

// BreakImage deletes the last layer of an image, or of the first image in an index. Its
// manifest stays. It affects all images of the repository with that layer. mend restores the
// layer; so does pushing it again.
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

// contents are the references in a manifest or an index.
type contents struct {
	Config    *v1.Descriptor  `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
	Manifests []v1.Descriptor `json:"manifests"`
	FSLayers  []struct {      // Docker schema 1
		BlobSum string `json:"blobSum"`
	} `json:"fsLayers"`
}

// BreakBlob deletes a blob from a repository; mend restores it.
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

// DeleteManifest deletes a manifest from a repository and leaves the tags and indexes that
// refer to it.
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
