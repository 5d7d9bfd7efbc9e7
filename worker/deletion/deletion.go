// Package deletion deletes tags and manifests at destinations, by the API of each kind of
// registry.
package deletion

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Hosts are the registries that are known to delete a tag alone: without its digest and the other
// tags of the digest. The zero value has none.
type Hosts struct{ quay, harbor reference.Hosts }

// NewHosts returns the hosts, host[:port], that run Quay, in addition to quay.io, and those that
// run Harbor 2.
func NewHosts(quay, harbor []string) Hosts {
	return Hosts{reference.NewHosts(append([]string{"quay.io"}, quay...)), reference.NewHosts(harbor)}
}

// IsZero reports whether the hosts were not made by NewHosts.
func (h Hosts) IsZero() bool { return h.quay == nil }

// Alone reports whether the registry is known to delete a tag alone.
func (h Hosts) Alone(repository reference.Repository) bool {
	return h.quay.Has(repository.Registry()) || h.harbor.Has(repository.Registry())
}

var (
	// ErrTogether is returned if the registry may delete a tag only with its digest and the other
	// tags of the digest.
	ErrTogether = errors.New("the destination may delete a tag together with the other tags of its digest")
	// errStill is returned for a tag that exists after its deletion.
	errStill = errors.New("the registry has accepted the deletion and still has it")
)

// Deleter deletes at destinations.
type Deleter struct {
	Registry *registry.Client
	Hosts    Hosts
	// During calls send for each deletion, or returns why it must not be sent.
	During func(ctx context.Context, send func() error) error
}

func (d Deleter) byName(ctx context.Context, repository reference.Repository, tag reference.Tag) error {
	return d.During(ctx, func() error { return d.Registry.DeleteTag(ctx, repository, tag) })
}

func (d Deleter) byDigest(ctx context.Context, repository reference.Repository, digest reference.Digest) error {
	return d.During(ctx, func() error { return d.Registry.Delete(ctx, repository, digest) })
}

// Tag deletes a tag, but neither its digest nor the other tags of the digest. It returns nil if
// the tag does not exist, and ErrTogether if the registry is not known to delete a tag alone.
func (d Deleter) Tag(ctx context.Context, repository reference.Repository, tag reference.Tag, digest reference.Digest) error {
	var err error
	switch {
	case d.Hosts.harbor.Has(repository.Registry()):
		err = d.During(ctx, func() error { return d.Registry.DeleteAt(ctx, repository, tag, harborTag(repository, tag, digest)) })
	case d.Hosts.quay.Has(repository.Registry()):
		err = d.byName(ctx, repository, tag)
	default:
		return ErrTogether
	}
	if err == nil || errors.Is(err, registry.ErrNotFound) {
		err = denied(err, d.gone(ctx, repository, tag, digest))
	}
	return explain(repository, err)
}

// denied returns the error for a tag that still exists although the registry answered its deletion
// with 404. Otherwise, it returns still.
func denied(answer, still error) error {
	if answer != nil && errors.Is(still, errStill) {
		return fmt.Errorf("%w: it answered 404 and still has it", registry.ErrUndeletable)
	}
	return still
}

// harborTag returns the URL of a tag in Harbor's API (goharbor/harbor, api/v2.0/swagger.yaml,
// deleteTag). Harbor deletes the tag only if it has the digest. The repository is escaped twice,
// because a proxy in front of Harbor unescapes the path: once here, and once when the URL becomes
// text.
func harborTag(repository reference.Repository, tag reference.Tag, digest reference.Digest) url.URL {
	project, name, _ := strings.Cut(repository.Path(), "/")
	return url.URL{
		Host: repository.Registry(),
		Path: "/api/v2.0/projects/" + project + "/repositories/" + url.PathEscape(name) + "/artifacts/" + digest.String() + "/tags/" + tag.String(),
	}
}

// Manifest deletes a digest with all of its tags. tag is one of them, or zero if it has none. If
// the registry does not delete the tag with the digest, or refuses because of it, Manifest deletes
// the tag by its name. The error is registry.ErrNotFound if the digest does not exist,
// registry.ErrReferenced if an index needs it, and registry.ErrTagged if tag is zero and the digest
// has tags.
func (d Deleter) Manifest(ctx context.Context, repository reference.Repository, tag reference.Tag, digest reference.Digest) error {
	err := d.byDigest(ctx, repository, digest)
	missing := errors.Is(err, registry.ErrNotFound)
	switch {
	case errors.Is(err, registry.ErrTagged) && !tag.IsZero():
		return explain(repository, d.afterTag(ctx, repository, tag, digest))
	case err != nil && !missing, tag.IsZero():
		return explain(repository, err)
	}
	still := d.gone(ctx, repository, tag, digest)
	if errors.Is(still, errStill) { // Nexus leaves the tag
		if removed := d.byName(ctx, repository, tag); removed == nil || !missing {
			still = d.gone(ctx, repository, tag, digest)
		} else {
			still = denied(removed, still)
		}
	}
	return explain(repository, still)
}

// afterTag deletes a tag, and then its digest unless it has other tags.
func (d Deleter) afterTag(ctx context.Context, repository reference.Repository, tag reference.Tag, digest reference.Digest) error {
	if err := d.byName(ctx, repository, tag); err != nil && !errors.Is(err, registry.ErrNotFound) {
		return err
	}
	if err := d.gone(ctx, repository, tag, digest); err != nil {
		return err
	}
	err := d.byDigest(ctx, repository, digest)
	if errors.Is(err, registry.ErrTagged) || errors.Is(err, registry.ErrNotFound) {
		return nil // another tag of the plan is next
	}
	return err
}

// gone returns errStill if a tag still has the digest.
func (d Deleter) gone(ctx context.Context, repository reference.Repository, tag reference.Tag, digest reference.Digest) error {
	at, err := d.Registry.Find(ctx, repository, tag)
	switch {
	case err == nil && at.Digest == digest:
		return errStill
	case errors.Is(err, registry.ErrNotFound):
		return nil
	}
	return err
}

// elsewhere describes how to delete at registries that do not do so by the OCI API.
var elsewhere = map[string]string{
	"docker.io":     "Docker Hub deletes tags at hub.docker.com",
	"ghcr.io":       "GitHub deletes versions of packages at github.com and by its own API",
	"amazonaws.com": "Amazon ECR needs the permission ecr:BatchDeleteImage, or deletes images by lifecycle policies",
	"ecr.aws":       "Amazon ECR Public needs the permission ecr-public:BatchDeleteImage",
}

// explain adds to a refused deletion how to permit it.
func explain(repository reference.Repository, err error) error {
	refused := errors.Is(err, registry.ErrUndeletable) || errors.Is(err, registry.ErrUnauthorized) || errors.Is(err, registry.ErrDenied)
	for name, how := range elsewhere {
		if host := repository.Registry(); refused && (host == name || strings.HasSuffix(host, "."+name)) {
			return fmt.Errorf("%w; %s", err, how)
		}
	}
	var answer *registry.Error
	switch {
	case errors.Is(err, registry.ErrUndeletable):
		return fmt.Errorf("%w; permit it there: distribution needs storage.delete.enabled", err)
	case refused:
		return fmt.Errorf("%w; the account needs the permission to delete", err)
	case errors.As(err, &answer) && protects(answer.Status) && !errors.Is(err, registry.ErrReferenced):
		return fmt.Errorf("%w; the destination may protect the tag as immutable or by a retention rule", err)
	}
	return err
}

// protects reports whether a status may mean that the tag is immutable: Harbor answers 412, others
// 409 and 423.
func protects(status int) bool { return status == 409 || status == 412 || status == 423 }
