package verify

import (
	"context"
	"errors"
	"net/http"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// remembered is how long an accepted image is not verified again. It is longer than the
	// window of a registry's limit. Otherwise, an image whose copy waits for the next window
	// could spend that window on its signatures again.
	remembered = 24 * time.Hour

	// maxRemembered is how many accepted images are remembered, with some 300 bytes each.
	maxRemembered = 20000
)

// The results of a verification.
const (
	resultAccepted = "accepted"
	resultRejected = "rejected"
	resultUnknown  = "unknown" // the signatures could not be read
)

// Trust checks images and indexes of sources against SIGNATURE_POLICY. Use NewTrust to make one.
type Trust struct {
	policy  policy.Policy
	gate    *gate
	observe func(registry, result string)
	now     func() time.Time

	accepted *lru.Cache[claim, time.Time]
}

// claim states that a source has a digest under a tag; if the tag is zero, under its digest.
type claim struct {
	source reference.Repository
	tag    reference.Tag
	digest reference.Digest
}

// NewTrust returns a Trust that gets signatures from registries with the client, and from other
// servers over the network. It calls observe, which is optional, with the registry and the result
// of each verification.
func NewTrust(p policy.Policy, client *registry.Client, network http.RoundTripper, observe func(registry, result string)) *Trust {
	if observe == nil {
		observe = func(string, string) {}
	}
	accepted, _ := lru.New[claim, time.Time](maxRemembered) // the size is valid
	return &Trust{policy: p, gate: newGate(client, network), observe: observe, now: time.Now, accepted: accepted}
}

// Verify returns an error for each tag with which the digest must not be mirrored, and otherwise
// nil; a zero tag stands for the digest itself. It calls get for the manifest if it needs that.
// pulls is how many manifests were pulled for signatures. An error is that of get or of a request,
// or wraps policy.ErrRejected.
func (t *Trust) Verify(ctx context.Context, source reference.Repository, digest reference.Digest, tags []reference.Tag, get func(context.Context) (registry.Manifest, error)) (pulls int, errs []error) {
	errs = make([]error, len(tags))
	var asked []reference.Tag
	var at []int
	for i, tag := range tags {
		c := claim{source, tag, digest}
		if since, ok := t.accepted.Get(c); ok && t.now().Sub(since) < remembered {
			continue
		}
		more, err := asks(ctx, t.policy, source, tag)
		switch {
		case err != nil:
			errs[i] = t.result(c, err)
		case more:
			asked, at = append(asked, tag), append(at, i)
		}
	}
	if len(asked) == 0 {
		return 0, errs
	}
	manifest, err := get(ctx)
	if err != nil {
		for _, i := range at {
			errs[i] = err
		}
		return 0, errs
	}
	pulls, found := t.gate.judge(ctx, t.policy, source, manifest, asked, &conf{})
	for k, i := range at {
		errs[i] = t.result(claim{source, tags[i], digest}, found[k])
	}
	return pulls, errs
}

// result remembers an accepted image, counts the result, and adds the image to an error.
func (t *Trust) result(c claim, err error) error {
	switch {
	case err == nil:
		t.accepted.Add(c, t.now())
		t.observe(c.source.Registry(), resultAccepted)
	case errors.Is(err, policy.ErrRejected):
		t.observe(c.source.Registry(), resultRejected)
	default:
		t.observe(c.source.Registry(), resultUnknown)
	}
	if c.tag.IsZero() {
		return named(c.source, c.digest, err)
	}
	return named(c.source, c.tag, err)
}
