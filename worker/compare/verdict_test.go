package compare

import (
	"context"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// calls records which method of Cases was called.
type calls []Verdict

func (c *calls) Copy(context.Context, *Job) error      { *c = append(*c, Copy); return nil }
func (c *calls) Tag(context.Context, *Job) error       { *c = append(*c, Tag); return nil }
func (c *calls) Unchanged(context.Context, *Job) error { *c = append(*c, Unchanged); return nil }
func (c *calls) Skip(context.Context, *Job) error      { *c = append(*c, Skip); return nil }
func (c *calls) Keep(context.Context, *Job) error      { *c = append(*c, Keep); return nil }
func (c *calls) Wait(context.Context, *Job) error      { *c = append(*c, Wait); return nil }
func (c *calls) Failed(context.Context, *Job) error    { *c = append(*c, Failed); return nil }

// TestEveryVerdict: each verdict has a method of Cases, and a case that calls it.
func TestEveryVerdict(t *testing.T) {
	verdicts := Verdict(reflect.TypeFor[Cases]().NumMethod())
	for v := Verdict(1); v <= verdicts; v++ {
		var called calls
		require.NoError(t, (&Job{Verdict: v}).Handle(t.Context(), &called))
		require.Equal(t, calls{v}, called)
	}
	require.Panics(t, func() { _ = (&Job{Verdict: verdicts + 1}).Handle(t.Context(), &calls{}) })
	require.Panics(t, func() { _ = (&Job{}).Handle(t.Context(), &calls{}) })
}
