// Package flight lets those who want the same thing done at the same time share one
// doing of it.
package flight

import (
	"context"
	"sync"
)

// Group is a set of things being done, each under its key. Its zero value has none, and
// it is safe for concurrent use.
//
// Unlike golang.org/x/sync/singleflight, a caller whose context ends does not take the
// others with it: one of them does it then.
type Group[K comparable] struct {
	mu      sync.Mutex
	flights map[K]*flight
}

// flight is one doing.
type flight struct {
	done chan struct{}
	err  error
	left bool // the context ended of the caller that did it
}

// Do calls do, unless another caller is doing it: then it waits for that one and returns
// its error. It returns the context's error where ctx ends first.
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

// join returns the flight of the key, and whether it is a new one.
func (g *Group[K]) join(key K) (f *flight, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f = g.flights[key]; f != nil {
		return f, false
	}
	f = &flight{done: make(chan struct{}), left: true} // unless it ends
	if g.flights == nil {
		g.flights = make(map[K]*flight)
	}
	g.flights[key] = f
	return f, true
}

func (g *Group[K]) fly(ctx context.Context, key K, f *flight, do func() error) {
	defer func() {
		g.mu.Lock()
		delete(g.flights, key)
		g.mu.Unlock()
		close(f.done)
	}()
	f.err = do()
	f.left = f.err != nil && ctx.Err() != nil
}
