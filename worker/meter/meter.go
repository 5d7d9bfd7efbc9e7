// Package meter counts the bytes that a copy moves, while it moves them.
package meter

import (
	"context"
	"io"
	"sync/atomic"
)

// Meter counts bytes. Its zero value has counted none, and it is safe for concurrent use.
type Meter struct{ bytes atomic.Int64 }

// Bytes returns how many bytes were counted so far.
func (m *Meter) Bytes() int64 { return m.bytes.Load() }

type key struct{}

// With returns a context whose copies a meter counts.
func With(ctx context.Context, m *Meter) context.Context { return context.WithValue(ctx, key{}, m) }

// Add counts bytes with the context's meter, if it has one.
func Add(ctx context.Context, bytes int64) {
	if m, ok := ctx.Value(key{}).(*Meter); ok {
		m.bytes.Add(bytes)
	}
}

// Reader returns a reader that counts the bytes with the context's meter.
func Reader(ctx context.Context, r io.Reader) io.Reader { return reader{r, ctx} }

type reader struct {
	io.Reader
	ctx context.Context
}

func (r reader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	Add(r.ctx, int64(n))
	return n, err
}
