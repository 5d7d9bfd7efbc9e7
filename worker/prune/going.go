package prune

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/referrers"
)

// gone returns the manifests that go with tags: their own, those below them and their referrers,
// without those that must stay.
func (c *contents) gone(going map[reference.Tag]bool, needed map[reference.Digest]bool) map[reference.Digest]bool {
	gone := map[reference.Digest]bool{}
	var add func(digest reference.Digest)
	add = func(digest reference.Digest) {
		m, there := c.manifests[digest]
		if !there || gone[digest] || needed[digest] {
			return
		}
		gone[digest] = true
		children, _ := m.Children() // read has parsed it
		for _, child := range children {
			add(child.Digest)
		}
		for _, referrer := range c.referrers[digest] {
			add(referrer)
		}
	}
	for tag := range going {
		add(c.tags[tag])
	}
	return gone
}

// accompany adds the companions of manifests that go to going, and reads the referrers of those
// manifests. It tries each tag once. more reports whether it has found something new.
func (c *contents) accompany(ctx context.Context, going map[reference.Tag]bool, needed map[reference.Digest]bool, tried map[reference.Tag]bool, kept keeping) (more bool, err error) {
	known := len(c.referrers)
	for digest := range c.gone(going, needed) {
		for _, tag := range append(referrers.CompanionTags(digest), referrers.FallbackTag(digest)) {
			if _, there := c.tags[tag]; !there || tried[tag] || kept.why(tag) != "" {
				continue
			}
			tried[tag], going[tag], more = true, true, true
		}
		if err := c.listReferrers(ctx, digest); err != nil {
			return false, err
		}
	}
	return more || len(c.referrers) > known, nil
}

// plan returns the plan for the tags that go.
func (c *contents) plan(dropped map[reference.Tag]holding.Tag, going map[reference.Tag]bool, needed map[reference.Digest]bool) Repository {
	kept := map[reference.Digest]int64{}
	for digest := range needed {
		c.blobs(digest, kept)
	}
	r := Repository{Repository: c.repository}
	counted := maps.Clone(kept)
	tagged := map[reference.Digest]bool{}
	add := func(tag reference.Tag, t Tag) {
		t.Tag, t.Digest = tag, c.tags[tag]
		t.Alone = needed[t.Digest]
		t.Bytes = c.frees(map[reference.Tag]bool{tag: true}, needed, counted)
		tagged[t.Digest] = true
		r.Tags = append(r.Tags, t)
	}
	names := slices.SortedFunc(maps.Keys(going), func(a, b reference.Tag) int { return cmp.Compare(a.String(), b.String()) })
	for _, tag := range names {
		if d, ok := dropped[tag]; ok {
			add(tag, Tag{Why: string(d.Why), Since: d.Dropped})
		}
	}
	for _, tag := range names {
		if _, ok := dropped[tag]; !ok {
			subject, _ := selection.Companion(tag.String())
			add(tag, Tag{Why: "it belongs to an image that is deleted", Of: subject})
		}
	}
	for digest := range c.gone(going, needed) {
		if !tagged[digest] {
			r.Manifests = append(r.Manifests, digest)
		}
	}
	slices.SortFunc(r.Manifests, func(a, b reference.Digest) int { return cmp.Compare(a.String(), b.String()) })
	return r
}

// frees returns the size of the manifests and blobs that go with tags, without those in counted,
// and adds them to counted.
func (c *contents) frees(going map[reference.Tag]bool, needed map[reference.Digest]bool, counted map[reference.Digest]int64) (bytes int64) {
	for digest := range c.gone(going, needed) {
		sizes := map[reference.Digest]int64{}
		c.blobs(digest, sizes)
		for blob, size := range sizes {
			if _, known := counted[blob]; !known {
				counted[blob] = size
				bytes += size
			}
		}
	}
	return bytes
}

// untagged returns the manifests of a plan that can be deleted. If some tags of the plan stay, a
// manifest must belong to a tag that goes; otherwise, an earlier execution may have deleted the
// tag.
func (c *contents) untagged(ctx context.Context, planned []reference.Digest, going map[reference.Tag]bool, needed map[reference.Digest]bool, some bool) ([]reference.Digest, error) {
	for known := -1; len(c.referrers) > known; {
		known = len(c.referrers)
		for digest := range c.gone(going, needed) {
			if err := c.listReferrers(ctx, digest); err != nil {
				return nil, err
			}
		}
	}
	gone := c.gone(going, needed)
	var can []reference.Digest
	for _, digest := range planned {
		if !gone[digest] && !needed[digest] && !some {
			if err := c.add(ctx, digest); err != nil {
				return nil, err
			}
		}
		if !needed[digest] && (gone[digest] || !some && !needed[c.subject(digest)]) {
			can = append(can, digest)
		}
	}
	return can, nil
}

// subject returns the digest that a manifest refers to; zero if it refers to none, or does not
// exist.
func (c *contents) subject(digest reference.Digest) reference.Digest {
	var m struct {
		Subject struct {
			Digest string `json:"digest"`
		} `json:"subject"`
	}
	_ = json.Unmarshal(c.manifests[digest].Raw, &m)       // a manifest that cannot be parsed refers to none
	subject, _ := reference.ParseDigest(m.Subject.Digest) // zero after an error
	return subject
}
