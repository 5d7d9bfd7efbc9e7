package listing

import (
	"context"
	"errors"
	"slices"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Pages reads the tags of a destination page by page, from an API that lists digests. It is not
// safe for concurrent use.
type Pages struct {
	lister     *Lister
	repository reference.Repository
	bounds     registry.Pages
	read       int // pages
	ended      bool
}

// Destination returns the pages of a destination. It returns nil if its registry has no reliable
// API that lists digests; Docker Hub's may lag.
func (l *Listers) Destination(repository reference.Repository) *Pages {
	switch host := repository.Registry(); {
	case host == reference.DockerHub:
		return nil
	case l.quayHosts.Has(host):
		return &Pages{lister: l.quay, repository: repository}
	case l.harborHosts.Has(host):
		return &Pages{lister: l.harbor, repository: repository}
	}
	return nil
}

// Ended reports whether the last page was read or the API has failed.
func (p *Pages) Ended() bool { return p.ended }

// Next returns the tags of the next page, without those that lack a digest or a valid name. The
// error wraps a *registry.Error. It ends the pages unless Passes is true for it.
func (p *Pages) Next(ctx context.Context) ([]Tag, error) {
	listed, err := p.lister.bulk.page(ctx, p.lister.registry, p.repository, p.read+1, &p.bounds)
	if err != nil {
		p.ended = !Passes(err)
		return nil, err
	}
	p.read++
	p.ended = !listed.more
	var tags []Tag
	for _, t := range listed.tags {
		if t.Name, err = registry.ParseTag(t.name); err == nil && !t.Digest.IsZero() {
			tags = append(tags, t.Tag)
		}
	}
	return tags, nil
}

// Passes reports whether any request to the registry would have failed like Next: the registry
// limits requests, or the request was not sent.
func Passes(err error) bool {
	is := func(target error) bool { return errors.Is(err, target) }
	return slices.ContainsFunc(unsent, is) || isSpent(err)
}

// Warn logs once for each registry and reason that the API cannot be used.
func (p *Pages) Warn(err error) {
	p.lister.warnings.warn(p.repository, err, p.read > 0)
}
