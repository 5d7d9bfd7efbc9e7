package flight_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/flight"
)

// TestOneDoesItForAll: all callers get the error of the one call. The next caller after
// that makes another call.
func TestOneDoesItForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var group flight.Group[string]
		failed, land := errors.New("failed"), make(chan struct{})
		done := 0
		for range 10 {
			go func() {
				err := group.Do(t.Context(), "a", func() error { done++; <-land; return failed })
				require.ErrorIs(t, err, failed)
			}()
		}
		synctest.Wait()
		require.NoError(t, group.Do(t.Context(), "b", func() error { return nil }), "other keys do not wait")
		close(land)
		synctest.Wait()
		require.Equal(t, 1, done)
		require.NoError(t, group.Do(t.Context(), "a", func() error { return nil }))
	})
}

// TestOneLeaves: if the context of a caller ends, the others still get their result,
// whether that caller made the call or waited.
func TestOneLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var group flight.Group[string]
		leaves, leave := context.WithCancel(t.Context())
		land, done := make(chan struct{}), 0
		do := func(ctx context.Context) error {
			return group.Do(ctx, "a", func() error {
				done++
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-land:
					return nil
				}
			})
		}
		go func() { require.ErrorIs(t, do(leaves), context.Canceled) }()
		synctest.Wait()
		for range 3 {
			go func() { require.NoError(t, do(t.Context())) }()
		}
		synctest.Wait()
		leave()
		synctest.Wait()
		require.Equal(t, 2, done, "one of the others does it")
		require.ErrorIs(t, do(leaves), context.Canceled)
		close(land)
		synctest.Wait()
		require.Equal(t, 2, done)
	})
}

// TestLead: those who wait for a call that its caller ends later get its result, or make the call
// themselves if it was left.
func TestLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var group flight.Group[string]
		end, err := group.Lead(t.Context(), "a")
		require.NoError(t, err)
		waits, leave := context.WithCancel(t.Context())
		go func() {
			_, err := group.Lead(waits, "a")
			require.ErrorIs(t, err, context.Canceled)
		}()
		made, led, all := 0, 0, make(chan struct{})
		for range 3 {
			go func() { require.NoError(t, group.Do(t.Context(), "a", func() error { made++; <-all; return nil })) }()
			go func() {
				next, err := group.Lead(t.Context(), "a")
				require.NoError(t, err)
				if next != nil {
					led++
					<-all
					next(true)
				}
			}()
		}
		synctest.Wait()
		leave()
		synctest.Wait()
		require.Zero(t, made+led)
		end(false)
		end(true)
		synctest.Wait()
		close(all)
		synctest.Wait()
		require.Equal(t, 1, made+led, "one makes the call that was left")

		failed, land := errors.New("failed"), make(chan struct{})
		go func() { _ = group.Do(t.Context(), "a", func() error { <-land; return failed }) }()
		synctest.Wait()
		go func() {
			end, err := group.Lead(t.Context(), "a")
			require.ErrorIs(t, err, failed)
			require.Nil(t, end)
		}()
		synctest.Wait()
		close(land)
		synctest.Wait()
	})
}
