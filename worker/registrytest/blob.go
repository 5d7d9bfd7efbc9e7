package registrytest

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PushBlob stores a blob in a repository and returns its digest.
func (r *Registry) PushBlob(repository string, content []byte) (string, error) {
	repo, err := r.repository(repository)
	if err != nil {
		return "", err
	}
	ctx := context.Background()
	stored, err := repo.Blobs(ctx).Put(ctx, "application/octet-stream", content)
	if err != nil {
		return "", fmt.Errorf("push a blob to %s: %w", repository, err)
	}
	return stored.Digest.String(), nil
}

// LinkBlob stores a blob in a repository under a digest of any algorithm.
func (r *Registry) LinkBlob(repository, dgst string, content []byte) error {
	repo, err := r.repository(repository)
	if err != nil {
		return err
	}
	ctx := context.Background()
	w, err := repo.Blobs(ctx).Create(ctx)
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		_, err = w.Commit(ctx, ocispec.Descriptor{Digest: digest.Digest(dgst)})
	}
	if err != nil {
		return fmt.Errorf("push the blob %s to %s: %w", dgst, repository, err)
	}
	return nil
}

// Blob is the content of a blob in a repository. It wraps ErrNotFound where there is none.
func (r *Registry) Blob(repository, dgst string) ([]byte, error) {
	repo, err := r.repository(repository)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	reader, err := repo.Blobs(ctx).Open(ctx, digest.Digest(dgst)) // Get has a limit
	if err != nil {
		return nil, r.missing(err, "find blob %s in %s", dgst, repository)
	}
	defer reader.Close()
	content, err := io.ReadAll(reader)
	if err != nil {
		return nil, fmt.Errorf("read blob %s in %s: %w", dgst, repository, err)
	}
	return content, nil
}

// Uploads is how many uploads to a repository were begun and not ended.
func (r *Registry) Uploads(repository string) (int, error) {
	// Where distribution keeps them.
	left, err := r.driver.List(context.Background(), "/docker/registry/v2/repositories/"+repository+"/_uploads")
	if _, none := errors.AsType[driver.PathNotFoundError](err); err != nil && !none {
		return 0, fmt.Errorf("list the uploads to %s: %w", repository, err)
	}
	return len(left), nil
}
