// Package flight shares one call between concurrent callers that need the same result.
package flight

import (
	"context"
	"sync"
)

// Group is a set of running calls, each with a key. Its zero value is empty. It is safe for
// concurrent use.
//
// If the context of the running caller ends, one of the waiting callers makes the call instead;
// golang.org/x/sync/singleflight does not do that.
type Group[K comparable] struct {
	mu      sync.Mutex
	flights map[K]*flight
}

// flight is a running call.
type flight struct {
	done chan struct{}
	err  error
	left bool // the call ended because its caller's context did
}

// Do calls do. If a call with the same key is running, it waits for that call instead and returns
// its error, or ctx's error if ctx ends first.
func (g *Group[K]) Do(ctx context.Context, key K, do func() error) error {
	for {
		f, first := g.join(key)
		if first {
			g.fly(ctx, key, f, do)
			return f.err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.done:
		}
		if !f.left {
			return f.err
		}
	}
}

// join returns the flight of the key, and whether it is new.
func (g *Group[K]) join(key K) (f *flight, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f = g.flights[key]; f != nil {
		return f, false
	}
	f = &flight{done: make(chan struct{}), left: true} // stays true if do panics
	if g.flights == nil {
		g.flights = make(map[K]*flight)
	}
	g.flights[key] = f
	return f, true
}

func (g *Group[K]) fly(ctx context.Context, key K, f *flight, do func() error) {
	defer g.end(key, f)
	f.err = do()
	f.left = f.err != nil && ctx.Err() != nil
}

// Lead makes the caller the running one, of a call that ends when it calls end. done says whether the
// others need not make the call any more; if not, one of them makes it instead. If a call with the same
// key is running, Lead waits for it. If that has succeeded, end is nil; if it has failed, Lead returns
// its error. It returns ctx's error if ctx ends first. Only the first call of end counts.
func (g *Group[K]) Lead(ctx context.Context, key K) (end func(done bool), err error) {
	for {
		f, first := g.join(key)
		if first {
			var once sync.Once
			return func(done bool) { once.Do(func() { f.left = !done; g.end(key, f) }) }, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-f.done:
		}
		if !f.left {
			return nil, f.err
		}
	}
}

// end ends the flight of a key.
func (g *Group[K]) end(key K, f *flight) {
	g.mu.Lock()
	delete(g.flights, key)
	g.mu.Unlock()
	close(f.done)
}
