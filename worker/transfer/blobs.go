// Package transfer copies blobs from one repository to another, as streams, and verifies their
// digests. It copies each blob once, and none that the destination has.
package transfer

import (
	"cmp"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/flight"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// atOnce is how many blobs are copied at once. Each takes some 100 KB of memory, more if it
	// comes in parts, or if it comes over HTTP/2 and is small enough to be buffered whole.
	atOnce = 32

	// together is how many blobs of one image are copied at once.
	together = 8
)

// Blobs copies blobs. It is safe for concurrent use.
type Blobs struct {
	from, to *registry.Client
	slots    chan struct{}
	flights  flight.Group[place]
	first    flight.Group[shelf] // the first copy of a blob to a registry that can mount it afterwards
	held     *held
	begun    *begun
	manners  *manners
	splits   *splits
	sizes    sizes
}

// place is a blob in a repository.
type place struct {
	repository reference.Repository
	digest     reference.Digest
}

// New returns Blobs that use a client.
func New(client *registry.Client) *Blobs {
	return &Blobs{
		from: client, to: client.Writing(),
		slots: make(chan struct{}, atOnce), held: newHeld(), begun: newBegun(), manners: newManners(), splits: newSplits(),
		sizes: usualSizes(),
	}
}

// Send copies the blobs that the destination lacks. Its error is a *registry.Error, or wraps that
// of ctx. If content has the wrong digest, the destination does not store it.
func (b *Blobs) Send(ctx context.Context, source, destination reference.Repository, blobs ...registry.Descriptor) error {
	return b.send(ctx, source, destination, false, blobs)
}

// SendToEmpty is Send for a destination that was empty a moment ago: it sends small blobs without
// looking them up.
func (b *Blobs) SendToEmpty(ctx context.Context, source, destination reference.Repository, blobs ...registry.Descriptor) error {
	return b.send(ctx, source, destination, true, blobs)
}

func (b *Blobs) send(ctx context.Context, source, destination reference.Repository, empty bool, blobs []registry.Descriptor) error {
	group, shared := errgroup.WithContext(ctx)
	group.SetLimit(together)
	// The largest first: if begun last, it would still be under way when all others are done.
	blobs = slices.SortedStableFunc(slices.Values(blobs), func(a, b registry.Descriptor) int { return cmp.Compare(b.Size, a.Size) })
	seen := make(map[reference.Digest]bool, len(blobs))
	for _, blob := range blobs {
		if at := (place{destination, blob.Digest}); seen[blob.Digest] || b.held.has(at) {
			continue
		}
		seen[blob.Digest] = true
		group.Go(func() error {
			return b.copy(shared, &transfer{blobs: b, source: source, destination: destination, empty: empty, blob: blob})
		})
	}
	return group.Wait()
}

// Forget makes Send look up the blobs at the destination again.
func (b *Blobs) Forget(destination reference.Repository, blobs ...registry.Descriptor) {
	for _, blob := range blobs {
		b.held.forget(place{destination, blob.Digest})
	}
}

// copy copies one blob. If another caller is copying it, copy waits for that.
func (b *Blobs) copy(ctx context.Context, t *transfer) error {
	at := place{t.destination, t.blob.Digest}
	return b.flights.Do(ctx, at, func() error {
		if b.held.has(at) {
			return nil
		}
		move := func() error { return b.move(ctx, t) }
		if !b.waitsForOthers(at) {
			return move()
		}
		ours := false
		err := b.first.Do(ctx, at.shelf(), func() error {
			ours = true
			return move()
		})
		if ours || ctx.Err() != nil {
			return err
		}
		return move()
	})
}

// waitsForOthers reports whether a copy waits for a copy of the blob to another repository of the
// destination, from which it can be mounted afterwards.
func (b *Blobs) waitsForOthers(at place) bool {
	return !b.held.has(at) && b.held.mounts(at.repository.Registry()) && b.held.elsewhere(at).IsZero()
}

// move copies one blob.
func (b *Blobs) move(ctx context.Context, t *transfer) error {
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	host := t.destination.Registry()
	t.manner = b.manners.of(host)
	if err := t.run(ctx); err != nil {
		return err
	}
	b.held.add(place{t.destination, t.blob.Digest})
	b.manners.note(host, t.manner)
	return nil
}
