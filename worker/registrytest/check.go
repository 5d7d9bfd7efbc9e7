package registrytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

// Check returns an error for everything below a tag or digest that the
// repository does not hold: nil means that it can be pulled whole. Each error
// wraps ErrNotFound.
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

// isBlob tells whether an index lists a blob, as BuildKit's cache does.
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
