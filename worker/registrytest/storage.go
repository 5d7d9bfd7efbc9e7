package registrytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
)

// sharedDriver names a storage driver that gets an existing driver, so that the registry and
// its methods use the same storage.
const sharedDriver = "registrytest"

// filesystemThreads is the default concurrency of the filesystem driver.
const filesystemThreads = 100

type sharedDriverFactory struct{}

func (sharedDriverFactory) Create(_ context.Context, parameters map[string]any) (driver.StorageDriver, error) {
	return parameters["driver"].(driver.StorageDriver), nil
}

func init() {
	factory.Register(sharedDriver, sharedDriverFactory{})
	// distribution logs all requests with logrus's global logger, which cannot be
	// replaced; nothing else in this project uses it.
	logrus.SetLevel(logrus.PanicLevel)
	logrus.SetOutput(io.Discard)
}

func (r *Registry) openStorage() error {
	var shared driver.StorageDriver = steady{inmemory.New(), new(sync.Mutex)}
	if r.settings.dir != "" {
		shared = filesystem.New(filesystem.DriverParameters{RootDirectory: r.settings.dir, MaxThreads: filesystemThreads})
	}
	namespace, err := storage.NewRegistry(context.Background(), shared, storage.EnableDelete)
	if err != nil {
		return fmt.Errorf("open the storage: %w", err)
	}
	config := &configuration.Configuration{Storage: configuration.Storage{
		sharedDriver:  {"driver": shared},
		"delete":      {"enabled": !r.settings.noDelete},
		"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	config.Catalog.MaxEntries = 1000  // as a configuration file has by default
	config.HTTP.Secret = sharedDriver // signs upload sessions; without one, distribution logs a warning
	config.Validation.Manifests.Indexes.Platforms = "all"
	config.Validation.Manifests.URLs.Allow = []string{"^https://"} // of foreign layers
	if r.settings.partialIndexes {
		config.Validation.Manifests.Indexes.Platforms = "none"
	}
	r.driver, r.storage, r.app = shared, namespace, handlers.NewApp(context.Background(), config)
	return nil
}

func (r *Registry) repository(name string) (distribution.Repository, error) {
	named, err := reference.WithName(name)
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", name, err)
	}
	return r.storage.Repository(context.Background(), named)
}

// Repositories returns the names of all repositories that were ever pushed to, in lexical
// order.
func (r *Registry) Repositories() ([]string, error) {
	var names []string
	err := r.storage.(distribution.RepositoryEnumerator).Enumerate(context.Background(), func(name string) error {
		names = append(names, name)
		return nil
	})
	if _, empty := errors.AsType[driver.PathNotFoundError](err); err != nil && !empty {
		return nil, fmt.Errorf("list the repositories of %s: %w", r.Host(), err)
	}
	slices.Sort(names)
	return names, nil
}

// Tags returns the tags of a repository in lexical order. It wraps ErrNotFound if there is no
// such repository.
func (r *Registry) Tags(repository string) ([]string, error) {
	if s := r.synthetic(repository); s != nil {
		return slices.Clone(s.tags), nil
	}
	repo, err := r.repository(repository)
	if err != nil {
		return nil, err
	}
	odd := r.odd.tags(repository)
	tags, err := repo.Tags(context.Background()).All(context.Background())
	if err != nil && len(odd) == 0 {
		return nil, r.missing(err, "list the tags of %s", repository)
	}
	return slices.Compact(slices.Sorted(slices.Values(append(tags, odd...)))), nil
}

// Digest returns the digest of a tag or digest. It wraps ErrNotFound if there is no such tag
// or manifest.
func (r *Registry) Digest(repository, ref string) (string, error) {
	dgst, _, err := r.manifest(repository, ref)
	return dgst, err
}

// Manifest returns the manifest of a tag or digest, byte for byte. It wraps ErrNotFound if
// there is none.
func (r *Registry) Manifest(repository, ref string) ([]byte, error) {
	_, payload, err := r.manifest(repository, ref)
	return payload, err
}

func (r *Registry) manifest(repository, ref string) (dgst string, payload []byte, err error) {
	if s := r.synthetic(repository); s != nil {
		if dgst, payload, ok := s.manifest(ref); ok {
			return dgst, payload, nil
		}
	}
	if m, ok := r.odd.find(repository, ref); ok {
		return m.digest, m.payload, nil
	}
	repo, err := r.repository(repository)
	if err != nil {
		return "", nil, err
	}
	ctx := context.Background()
	revision := digest.Digest(ref)
	if revision.Validate() != nil {
		tagged, err := repo.Tags(ctx).Get(ctx, ref)
		if err != nil {
			return "", nil, r.missing(err, "find %s:%s", repository, ref)
		}
		revision = tagged.Digest
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return "", nil, err
	}
	found, err := manifests.Get(ctx, revision)
	if err != nil {
		return "", nil, r.missing(err, "find %s in %s", ref, repository)
	}
	_, payload, err = found.Payload()
	return revision.String(), payload, err
}

// missing adds what was being done to an error. It wraps ErrNotFound if distribution has an
// error for the missing thing.
func (r *Registry) missing(err error, format string, args ...any) error {
	doing := fmt.Sprintf(format, args...) + " at " + r.Host()
	_, noRepository := errors.AsType[distribution.ErrRepositoryUnknown](err)
	_, noTag := errors.AsType[distribution.ErrTagUnknown](err)
	_, noManifest := errors.AsType[distribution.ErrManifestUnknown](err)
	_, noRevision := errors.AsType[distribution.ErrManifestUnknownRevision](err)
	if noRepository || noTag || noManifest || noRevision || errors.Is(err, distribution.ErrBlobUnknown) {
		return fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// PushManifest stores a manifest or index unchanged, whether or not the registry has what it
// refers to. The tag is optional.
func (r *Registry) PushManifest(repository, tag string, mediaType types.MediaType, payload []byte) (string, error) {
	repo, err := r.repository(repository)
	if err != nil {
		return "", err
	}
	ctx := context.Background()
	manifest, _, err := distribution.UnmarshalManifest(string(mediaType), payload)
	if err != nil {
		return "", fmt.Errorf("push %s:%s: %w", repository, tag, err)
	}
	manifests, err := repo.Manifests(ctx, storage.SkipLayerVerification())
	if err != nil {
		return "", err
	}
	dgst, err := manifests.Put(ctx, manifest)
	if err != nil {
		return "", fmt.Errorf("push %s:%s: %w", repository, tag, err)
	}
	if tag == "" {
		return dgst.String(), nil
	}
	return dgst.String(), r.Tag(repository, tag, dgst.String())
}

// Tag sets a tag to a digest of the repository.
func (r *Registry) Tag(repository, tag, dgst string) error {
	repo, err := r.repository(repository)
	if err != nil {
		return err
	}
	if _, _, err := r.manifest(repository, dgst); err != nil {
		return err
	}
	ctx := context.Background()
	if err := repo.Tags(ctx).Tag(ctx, tag, ocispec.Descriptor{Digest: digest.Digest(dgst)}); err != nil {
		return fmt.Errorf("tag %s:%s: %w", repository, tag, err)
	}
	r.history.tagged(repository, tag, dgst, r.settings.now())
	return nil
}

// Untag removes a tag and keeps its manifest.
func (r *Registry) Untag(repository, tag string) error {
	repo, err := r.repository(repository)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := repo.Tags(ctx).Untag(ctx, tag); err != nil {
		return fmt.Errorf("untag %s:%s: %w", repository, tag, err)
	}
	r.history.untagged(repository, tag, r.settings.now())
	return nil
}

// exists reports whether a manifest was ever pushed to a repository, or whether it is
// synthetic.
func (r *Registry) exists(name string) bool {
	if r.synthetic(name) != nil {
		return true
	}
	repo, err := r.repository(name)
	if err != nil {
		return false
	}
	ctx := context.Background()
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return false
	}
	found := false
	enumerator, ok := manifests.(distribution.ManifestEnumerator)
	if !ok {
		return false
	}
	errFound := errors.New("found")
	_ = enumerator.Enumerate(ctx, func(digest.Digest) error { // it fails if there are none
		found = true
		return errFound
	})
	return found
}

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

// Blob returns the content of a blob in a repository. It wraps ErrNotFound if there is none.
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

// Uploads returns how many uploads to a repository are unfinished.
func (r *Registry) Uploads(repository string) (int, error) {
	// distribution stores them there.
	left, err := r.driver.List(context.Background(), "/docker/registry/v2/repositories/"+repository+"/_uploads")
	if _, none := errors.AsType[driver.PathNotFoundError](err); err != nil && !none {
		return 0, fmt.Errorf("list the uploads to %s: %w", repository, err)
	}
	return len(left), nil
}
