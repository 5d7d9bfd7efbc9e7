package prune

import (
	"context"
	"time"
)

// EndLeasesAfter makes the leases of killed processes end earlier.
func (s *Store) EndLeasesAfter(d time.Duration) *Store {
	s.lease = d
	return s
}

// Await is Await with the leases of the store.
func (s *Store) Await(ctx context.Context, destination string) error {
	return s.await(ctx, destination, func(Holder) {})
}

// Age makes the lease look as if it was renewed earlier.
func (l *Lease) Age(d time.Duration) {
	at := time.Now().Add(-d)
	l.renewed.Store(&at)
}

// Finished records that the whole plan is carried out.
func (l *Lease) Finished(ctx context.Context) error { return l.end(ctx) }
