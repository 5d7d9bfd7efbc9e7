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
	// remembered is how long an image that was accepted is not verified again. It is longer
	// than a registry's window: otherwise, an image whose copy has to wait for the next window
	// might spend that on its signatures.
	remembered = 24 * time.Hour

	// maxRemembered bounds how many images are remembered, some 300 bytes each.
	maxRemembered = 20000
)

// The results of a verification.
const (
	resultAccepted = "accepted"
	resultRejected = "rejected"
	resultUnknown  = "unknown" // it could not be found out
)

// Trust checks the images and indexes of the tags of sources against SIGNATURE_POLICY. NewTrust returns one; its zero value must not be used.
type Trust struct {
	policy  policy.Policy
	gate    *gate
	observe func(registry, result string)
	now     func() time.Time

	accepted *lru.Cache[claim, time.Time]
}

// claim is that the source has the digest under the tag, or at all if the tag is zero.
type claim struct {
	source reference.Repository
	tag    reference.Tag
	digest reference.Digest
}

// NewTrust returns a Trust that gets signatures from registries with the client, and from
// other servers over the network. observe is called with the registry and the result of each
// verification; it is optional.
func NewTrust(p policy.Policy, client *registry.Client, network http.RoundTripper, observe func(registry, result string)) *Trust {
	if observe == nil {
		observe = func(string, string) {}
	}
	accepted, _ := lru.New[claim, time.Time](maxRemembered) // the only error is that of a size below 1
	return &Trust{policy: p, gate: newGate(client, network), observe: observe, now: time.Now, accepted: accepted}
}

// Verify returns an error for each of the tags that must not be mirrored to the digest; a zero
// tag is the digest itself. get gets the manifest, and is not called if it is not needed. pulls
// is how many manifests were pulled for signatures. Each error is that of get, of a request, or
// wraps policy.ErrRejected.
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

// result remembers an image that was accepted, counts the result, and adds the image to the
// error.
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
