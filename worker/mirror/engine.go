package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sync"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// Engine copies images.
type Engine interface {
	// Pulls returns how many manifests CopyManifest pulls for an image of the source, or 0 if images of
	// the source do not need CopyManifest.
	Pulls(ctx context.Context, source reference.Repository) int
	// Turn waits until the blobs of an image may be copied. The caller then puts its manifest.
	Turn(ctx context.Context, image skopeo.Image) (skopeo.Turn, error)
	// Slot waits until CopyManifest may be called. The caller then calls free.
	Slot(ctx context.Context) (free func(), err error)
	// CopyManifest copies the manifest with this digest, which must not be an index, and
	// everything that it refers to, to the destination repository, under its digest and
	// without a tag.
	CopyManifest(ctx context.Context, source reference.Repository, digest reference.Digest, destination reference.Repository) error
}

// SharesBlobs reports whether images of the source that need the same blob share one copy of it.
func (m *Mirror) SharesBlobs(ctx context.Context, source reference.Repository) bool {
	return m.Engine == nil || m.Engine.Pulls(ctx, source) == 0
}

// engineReads reports whether the engine reads the images of the source itself.
func (c *copying) engineReads(ctx context.Context) bool {
	return !c.mirror.SharesBlobs(ctx, c.source)
}

// imageByEngine lets the engine copy the blobs of an image whose manifest was pulled, with requests
// by this process, and puts the manifest.
func (c *copying) imageByEngine(ctx context.Context, i item, manifest registry.Manifest) error {
	blobs := c.mirror.blobs
	empty := sync.OnceValue(func() bool { return c.mirror.seen.isBare(c.destination) })
	turn, err := c.mirror.Engine.Turn(ctx, skopeo.Image{
		Source: c.source, Destination: c.destination, Manifest: manifest,
		Open: func(ctx context.Context, blob registry.Descriptor) (skopeo.Blob, error) {
			return blobs.Open(ctx, c.source, blob)
		},
		Claim: func(ctx context.Context, blob registry.Descriptor) (func(), error) {
			return blobs.Claim(ctx, c.source, c.destination, blob, empty())
		},
		Put: func(ctx context.Context, blob registry.Descriptor, content []byte) error {
			return blobs.Put(ctx, c.destination, blob, content)
		},
		Upload: func(ctx context.Context, content io.Reader, size int64) (skopeo.Upload, error) {
			return blobs.Begin(ctx, c.destination, content, size)
		},
	})
	if err != nil {
		return err
	}
	err = c.guarded(ctx, manifest.Digest, turn.Copy)
	turn.End()
	if err != nil {
		return err
	}
	c.bytes.Add(manifest.ContentSize())
	return c.put(ctx, manifest, i.isRoot())
}

// byEngine lets the engine copy a manifest and everything that it refers to.
func (c *copying) byEngine(ctx context.Context, d registry.Descriptor) error {
	pulls := max(c.mirror.Engine.Pulls(ctx, c.source), 1) // the policy may just have changed
	free, err := c.mirror.Engine.Slot(ctx)
	if err != nil {
		return err
	}
	err = c.mirror.GuardEngine(ctx, c.source, c.destination, d.Digest, pulls, func(ctx context.Context) error {
		err := c.mirror.Engine.CopyManifest(ctx, c.source, d.Digest, c.destination)
		if !errors.Is(err, budget.ErrLate) && !errors.Is(err, skopeo.ErrNotInstalled) { // otherwise it has not pulled
			c.pulls.Add(int64(pulls))
		}
		return err
	})
	free()
	if err != nil {
		return c.explained(ctx, d, c.doubted(ctx, d, err))
	}
	copied, err := c.mirror.copied(ctx, c.destination, d.Digest)
	if err != nil {
		return fmt.Errorf("reading the copied manifest: %w", err)
	}
	c.mirror.seen.keep(c.at(d.Digest), copied, false)
	c.bytes.Add(copied.ContentSize())
	return nil
}

// refusedManifest matches skopeo's message if a destination refuses a manifest.
var refusedManifest = regexp.MustCompile(`(?i)^(?:writing|uploading) manifest\b.*(?:\b(?:manifest|size|tag) (?:invalid|unknown)|\bunsupported\b|: StatusCode: 4(?:0[04-6]|15|22)\b)`)

// explained adds the media types of a manifest to skopeo's error if the destination may not support
// them, because few registries name them. It takes a pull.
func (c *copying) explained(ctx context.Context, d registry.Descriptor, err error) error {
	failed := (*skopeo.Error)(nil)
	if !errors.As(err, &failed) || failed.Side != skopeo.Destination || !refusedManifest.MatchString(failed.Reason) {
		return err
	}
	manifest, getErr := c.mirror.Registry.Get(ctx, c.source, d.Digest)
	if getErr != nil {
		manifest = registry.Manifest{MediaType: d.MediaType}
	} else {
		c.pulls.Add(1)
	}
	return fmt.Errorf("%w; the manifest is %s", err, manifest.Types())
}

// ErrPassed is returned if skopeo failed at a request that now succeeds. It may have got a proxy's
// page, which it takes for a registry without authentication or for a manifest.
var ErrPassed = errors.New("skopeo failed at a request that now succeeds")

// These match skopeo's messages if it may have got a proxy's page.
var (
	otherManifest = regexp.MustCompile(`does not match provided manifest digest`)
	otherBlob     = regexp.MustCompile(`Digest did not match, expected (\S+), got `)
	noJSON        = regexp.MustCompile(`invalid character '.+' looking for beginning of value|unexpected end of JSON input`)
	noLogin       = regexp.MustCompile(`(?i): (?:unauthorized|authentication required|invalid username/password)\b`)
	// login matches the first steps on either side.
	login = regexp.MustCompile(`(?i)^(?:initializing (?:source|destination) |trying to reuse blob |checking whether a blob |` +
		`writing blob: (?:initiating layer upload|trying to reuse blob|checking whether a blob) )`)
)

// doubted repeats the request at which skopeo failed if a proxy's page may be the cause. It returns
// the error of that request, or ErrPassed if the request succeeds. Otherwise it returns err.
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
		_, found = c.mirror.Registry.Get(ctx, c.source, d.Digest)
		if asked := (*registry.Error)(nil); found == nil || errors.As(found, &asked) && asked.Status != 0 {
			c.pulls.Add(1)
		}
	case copied.Side == skopeo.Destination && atLogin:
		found = c.mirror.destination.MayPush(ctx, c.destination)
	default:
		return err
	}
	if found != nil {
		return found
	}
	return fmt.Errorf("%w: %s", ErrPassed, copied.Reason)
}

// doubtedBlob is doubted for a blob of the source. It reads only the beginning, because the blob may
// be large.
func (c *copying) doubtedBlob(ctx context.Context, digest string, err error) error {
	blob, bad := reference.ParseDigest(digest)
	if bad != nil {
		return err
	}
	if found := c.mirror.Registry.LookAtBlob(ctx, c.source, blob); errors.Is(found, registry.ErrPage) {
		return found
	}
	return err
}
