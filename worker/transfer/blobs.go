// Package transfer moves blobs from one repository to another: as streams, checked while
// they pass, each once, and not at all where the destination's registry has them already.
package transfer

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/flight"
	"github.com/osism/skopeo-worker/worker/registry"
)

// atOnce is how many blobs are under way at once. One takes some 100 KB of memory.
const atOnce = 32

// together is how many blobs of one image are under way at once.
const together = 8

// Blobs moves blobs. It is safe for concurrent use.
type Blobs struct {
	from, to *registry.Client
	slots    chan struct{}
	flights  flight.Group[place]
	held     *held
	begun    *begun
}

// place is a blob in a repository.
type place struct {
	repository reference.Repository
	digest     reference.Digest
}

// New returns what moves blobs with a client.
func New(client *registry.Client) *Blobs {
	return &Blobs{
		from: client, to: client.Writing(),
		slots: make(chan struct{}, atOnce), held: newHeld(), begun: newBegun(),
	}
}

// Copy makes sure that the destination has the blobs. Its error is a *registry.Error, or
// wraps that of ctx. Content that has another digest never becomes a blob there.
func (b *Blobs) Copy(ctx context.Context, source, destination reference.Repository, blobs ...registry.Descriptor) error {
	group, shared := errgroup.WithContext(ctx)
	group.SetLimit(together)
	seen := make(map[reference.Digest]bool, len(blobs))
	for _, blob := range blobs {
		if at := (place{destination, blob.Digest}); seen[blob.Digest] || b.held.has(at) {
			continue
		}
		seen[blob.Digest] = true
		group.Go(func() error { return b.copy(shared, source, destination, blob) })
	}
	return group.Wait()
}

// Forget makes Copy look again whether the destination has the blobs.
func (b *Blobs) Forget(destination reference.Repository, blobs ...registry.Descriptor) {
	for _, blob := range blobs {
		b.held.forget(place{destination, blob.Digest})
	}
}

// copy brings one blob, or waits for who does.
func (b *Blobs) copy(ctx context.Context, source, destination reference.Repository, blob registry.Descriptor) error {
	at := place{destination, blob.Digest}
	return b.flights.Do(ctx, at, func() error {
		if b.held.has(at) {
			return nil
		}
		select {
		case b.slots <- struct{}{}:
			defer func() { <-b.slots }()
		case <-ctx.Done():
			return ctx.Err()
		}
		t := &transfer{Blobs: b, source: source, destination: destination, blob: blob}
		if err := t.run(ctx); err != nil {
			return err
		}
		b.held.add(at)
		return nil
	})
}
