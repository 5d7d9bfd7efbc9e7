package mirror

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// ErrPassed is returned where skopeo failed at something that works: what it got instead
// of an answer may have been a page of a proxy, which it takes for a registry that wants
// no credentials, or for a manifest.
var ErrPassed = errors.New("skopeo failed at what works now")

// What skopeo says when it may have got a page.
var (
	otherManifest = regexp.MustCompile(`does not match provided manifest digest`)
	otherBlob     = regexp.MustCompile(`Digest did not match, expected (\S+), got `)
	noJSON        = regexp.MustCompile(`invalid character '.+' looking for beginning of value|unexpected end of JSON input`)
	noLogin       = regexp.MustCompile(`(?i): (?:unauthorized|authentication required|invalid username/password)\b`)
	// login is what comes before anything else at either side.
	login = regexp.MustCompile(`(?i)^(?:initializing (?:source|destination) |trying to reuse blob |checking whether a blob |` +
		`writing blob: (?:initiating layer upload|trying to reuse blob|checking whether a blob) )`)
)

// doubted looks for itself where a failure of skopeo's has another reason where a page
// came instead of an answer. It returns what it finds; ErrPassed, where it finds nothing
// wrong; and otherwise the failure.
func (c *copying) doubted(ctx context.Context, d registry.Descriptor, err error) error {
	copied := (*skopeo.Error)(nil)
	if !errors.As(err, &copied) || copied.ExitCode <= 0 {
		return err
	}
	var found error
	atLogin := noJSON.MatchString(copied.Reason) || login.MatchString(copied.Reason) && noLogin.MatchString(copied.Reason)
	switch blob := otherBlob.FindStringSubmatch(copied.Reason); {
	case blob != nil:
		return c.doubtedBlob(ctx, blob[1], err)
	case copied.Side == skopeo.Source && (otherManifest.MatchString(copied.Reason) || atLogin):
		_, found = c.Registry.Get(ctx, c.source, d.Digest)
		if asked := (*registry.Error)(nil); found == nil || errors.As(found, &asked) && asked.Status != 0 {
			c.pulls.Add(1)
		}
	case copied.Side == skopeo.Destination && atLogin:
		found = c.to().MayPush(ctx, c.destination)
	default:
		return err
	}
	if found != nil {
		return found
	}
	return fmt.Errorf("%w: %s", ErrPassed, copied.Reason)
}

// doubtedBlob looks at how a blob of the source begins: it may have gigabytes.
func (c *copying) doubtedBlob(ctx context.Context, digest string, err error) error {
	blob, bad := reference.ParseDigest(digest)
	if bad != nil {
		return err
	}
	if found := c.Registry.LookAtBlob(ctx, c.source, blob); errors.Is(found, registry.ErrPage) {
		return found
	}
	return err
}
