package run

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

// published returns a run of n chunks, all due.
func published(t *testing.T, chunks int) *story {
	y := begin(t, "r1")
	y.r.Chunks, y.r.Published = chunks, true
	y.put()
	for i := range chunks {
		y.publish(subject.Chunk, fmt.Sprint(i+1))
	}
	return y
}

// TestLost: chunks without a message and without a recorded end are lost.
func TestLost(t *testing.T) {
	finished := time.Now().UTC().Truncate(time.Second)
	done := Progress{State: Done, Images: Tally{Total: 1, Copied: 1}, Updated: finished}
	failed := Progress{State: Done, Images: Tally{Total: 1, Failed: 1}, Updated: finished}
	end := func(y *story, token string, p Progress) {
		y.record(token, p)
		y.gone(subject.Chunk, token)
	}
	for what, c := range map[string]struct {
		happens func(*story)
		want    Chunks
	}{
		"all before they are begun": {func(y *story) { require.NoError(t, y.b.Stream.Purge(t.Context())) }, Chunks{Total: 3, Lost: 3}},
		"the stream":                {func(y *story) { require.NoError(t, y.b.JS.DeleteStream(t.Context(), broker.StreamName)) }, Chunks{Total: 3, Lost: 3}},
		"one of three": {func(y *story) {
			end(y, "1", done)
			end(y, "3", failed)
			y.gone(subject.Chunk, "2")
		}, Chunks{Total: 3, Done: 2, Lost: 1}},
		"one that a worker has": {func(y *story) {
			end(y, "1", done)
			end(y, "3", done)
			y.record("2", Progress{State: Running, Images: Tally{Total: 5, Copied: 4}})
			y.gone(subject.Chunk, "2")
		}, Chunks{Total: 3, Done: 2, Lost: 1}},
		"a remainder": {func(y *story) {
			end(y, "1", done)
			end(y, "3", done)
			y.record("2-7", Progress{State: Snoozed, Images: Tally{Total: 2}})
			y.publish(subject.Later, "2-7")
			end(y, "2", done)
			y.gone(subject.Later, "2-7")
		}, Chunks{Total: 3, Done: 2, Lost: 1}},
		"a part before it is known": {func(y *story) {
			end(y, "1", done)
			end(y, "3", done)
			y.record("2-7", Progress{State: Snoozed})
			end(y, "2", done)
		}, Chunks{Total: 3, Done: 2, Lost: 1}},
	} {
		t.Run(what, func(t *testing.T) {
			y := published(t, 3)
			c.happens(y)
			st := y.now()
			require.Equal(t, StateLost, st.State)
			require.True(t, st.Over())
			require.Equal(t, c.want, st.Chunks)
			if c.want.Done > 0 {
				require.Equal(t, finished, *st.Finished)
			}

			// If the message is restored from a backup, a worker works it off.
			if what == "one of three" {
				y.publish(subject.Chunk, "2")
				require.Equal(t, StateWaiting, y.now().State)
				require.Zero(t, y.now().Chunks.Lost)
				end(y, "2", done)
				require.Equal(t, StateFailed, y.now().State)
			}
		})
	}
}

// TestReplaced: if a message is recorded and was perhaps never published, it is needed only if the
// delivery that has recorded it is done.
func TestReplaced(t *testing.T) {
	left := Progress{State: Snoozed, Images: Tally{Total: 4}}
	for what, c := range map[string]struct {
		left Progress
		mark string // of the delivery that is done
		want string
	}{
		"by another delivery":                         {left, "other", StateDone},
		"by another, under a worker that was killed":  {Progress{State: Running, Images: Tally{Total: 4, Copied: 1}}, "other", StateDone},
		"by none: the delivery that left it is done":  {left, "mark", StateLost},
		"by none: that the delivery is done, is old":  {left, "", StateLost},
		"by another, though it was worked off itself": {Progress{State: Done, Mark: "third", Images: Tally{Total: 4, Copied: 4}}, "other", StateDone},
	} {
		t.Run(what, func(t *testing.T) {
			y := published(t, 1)
			y.record("1-7-mark", c.left)
			y.record("1", Progress{State: Done, Mark: c.mark, Images: Tally{Total: 5, Copied: 5}})
			y.gone(subject.Chunk, "1")
			st := y.now()
			require.Equal(t, c.want, st.State)
			if c.want == StateDone {
				require.Equal(t, st.Images.Total, st.Images.Ended())
			}
		})
	}
}

// TestHeld: a chunk without a message is not lost as long as a worker holds it.
func TestHeld(t *testing.T) {
	y := published(t, 2)
	y.record("1", Progress{State: Done})
	y.gone(subject.Chunk, "1")
	now := time.Now().UTC()
	y.record("2", Progress{State: Running, Updated: now})
	y.gone(subject.Chunk, "2")
	st := y.becomes(StateRunning, Chunks{Total: 2, Done: 1, Running: 1})
	require.False(t, st.Over())
	require.Nil(t, st.Finished)
	for state, p := range map[string]Progress{
		StateDone: {State: Done, Updated: now},
		StateLost: {State: Running, Updated: now.Add(-2 * workingFor)}, // it has died since
	} {
		y.record("2", p)
		require.Equal(t, state, y.now().State)
	}

}

// TestLostWhileOthersGoOn: lost chunks are reported before the run ends.
func TestLostWhileOthersGoOn(t *testing.T) {
	y := published(t, 3)
	y.gone(subject.Chunk, "2")
	st := y.now()
	require.Equal(t, StateWaiting, st.State)
	require.Equal(t, Chunks{Total: 3, Waiting: 2, Lost: 1}, st.Chunks)
	require.False(t, st.Over())
	require.NoError(t, y.s.End(t.Context(), name, "r1", StateCancelled))
	y.becomes(StateCancelled, Chunks{Total: 3, Dropped: 3})
}

// TestNothingIsLostWhileItIsPublished: while a plan is being published, no chunk counts as lost.
func TestNothingIsLostWhileItIsPublished(t *testing.T) {
	y := published(t, 3)
	y.r.Chunks, y.r.Published = 10, false
	y.put()
	y.becomes(StateWaiting, Chunks{Total: 10, Waiting: 3})
}

// TestALostBucketIsNoEnd: a run does not count as done if its bucket was deleted.
func TestALostBucketIsNoEnd(t *testing.T) {
	y := published(t, 2)
	y.record("1", Progress{State: Done})
	y.gone(subject.Chunk, "1")
	y.becomes(StateWaiting, Chunks{Total: 2, Waiting: 1, Done: 1})
	require.NoError(t, y.b.JS.DeleteKeyValue(t.Context(), Bucket))
	y.gone(subject.Chunk, "2")
	_, err := y.Status(t.Context())
	require.ErrorContains(t, err, "stream not found")
	require.NoError(t, y.b.Ensure(t.Context()))
	require.Equal(t, StateLost, y.now().State)
	y.record("2", Progress{State: Done})
	require.Equal(t, StateDone, y.now().State, "an entry of the new bucket counts")
}

// TestReport: the report of a late worker does not replace the end that another one has recorded.
func TestReport(t *testing.T) {
	y := published(t, 1)
	a := y.address("1")
	first, err := y.s.Report(t.Context(), a, Progress{State: Running}, 0)
	require.NoError(t, err)
	second, err := y.s.Report(t.Context(), a, Progress{State: Running, Pulls: 1}, first)
	require.NoError(t, err)
	y.record("1", Progress{State: Done})
	_, err = y.s.Report(t.Context(), a, Progress{State: Running, Pulls: 2}, second)
	require.ErrorIs(t, err, ErrOvertaken)
	_, err = y.s.Report(t.Context(), a, Progress{State: Running, Pulls: 2}, 0)
	require.ErrorIs(t, err, ErrOvertaken)
	got, revision, err := y.s.Progress(t.Context(), a)
	require.NoError(t, err)
	require.True(t, got.Over())
	require.Greater(t, revision, second)
}

// fleet simulates workers: they record a remainder, then publish it, and they record an end, then acknowledge
// it. A message can be delivered to several workers, which all continue.
type fleet struct {
	*story
	random *rand.Rand
	live   map[string]string // messages by token, with their root
	held   []string          // deliveries
	next   int
	lost   map[string]bool // tokens without a message that no worker holds
}

func (f *fleet) any(tokens map[string]string) string {
	var all []string
	for token := range tokens {
		all = append(all, token)
	}
	return all[f.random.IntN(len(all))]
}

func (f *fleet) step() {
	switch n := f.random.IntN(10); {
	case n < 4 && len(f.live) > 0: // a delivery
		token := f.any(f.live)
		if f.live[token] == subject.Later {
			f.gone(subject.Later, token)
			f.publish(subject.Chunk, token)
			f.live[token] = subject.Chunk
		}
		f.record(token, Progress{State: Running})
		f.held = append(f.held, token)
	case n < 8 && len(f.held) > 0: // its end
		i := f.random.IntN(len(f.held))
		token := f.held[i]
		f.held = append(f.held[:i], f.held[i+1:]...)
		if f.random.IntN(3) == 0 { // it dies
			if f.live[token] == "" && !f.has(token) {
				f.lose(token)
			}
			return
		}
		if f.random.IntN(4) == 0 && f.live[token] != "" {
			f.next++
			rest := fmt.Sprintf("%s-%d", subject.Address{Token: token}.Number(), f.next)
			f.record(rest, Progress{State: Snoozed})
			f.publish(subject.Later, rest)
			f.live[rest] = subject.Later
		}
		f.record(token, Progress{State: Done})
		delete(f.lost, token)
		if f.live[token] != "" {
			f.gone(subject.Chunk, token)
			delete(f.live, token)
		}
	case n == 8 && len(f.live) > 0 && f.random.IntN(3) == 0: // somebody deletes a message
		token := f.any(f.live)
		f.gone(f.live[token], token)
		delete(f.live, token)
		if !f.has(token) {
			f.lose(token)
		}
	}
}

func (f *fleet) has(token string) bool {
	for _, held := range f.held {
		if held == token {
			return true
		}
	}
	return false
}

// lose records that a message is gone, unless a worker holds it or has finished it.
func (f *fleet) lose(token string) {
	p, _, err := f.s.Progress(f.t.Context(), f.address(token))
	require.NoError(f.t, err)
	if p.State != Done {
		f.lost[token] = true
	}
}

// TestWhateverHappens: a run ends as lost if, and only if, a message is gone and no worker has
// recorded its end. It does not end before all other messages are done.
func TestWhateverHappens(t *testing.T) {
	const chunks = 4
	ends := map[string]int{}
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := &fleet{story: published(t, chunks), random: rand.New(rand.NewPCG(seed, 0)), live: map[string]string{}, lost: map[string]bool{}}
			for i := range chunks {
				f.live[fmt.Sprint(i+1)] = subject.Chunk
			}
			for len(f.live)+len(f.held) > 0 {
				f.step()
				if len(f.live) > 0 && f.random.IntN(5) == 0 {
					require.False(t, f.now().Over(), f.live)
				}
			}
			st, want := f.now(), StateDone
			lost := map[string]bool{}
			for token := range f.lost {
				lost[subject.Address{Token: token}.Number()], want = true, StateLost
			}
			require.Equal(t, want, st.State)
			require.Equal(t, Chunks{Total: chunks, Done: chunks - len(lost), Lost: len(lost)}, st.Chunks)
			ends[st.State]++
		})
	}
	require.NotZero(t, ends[StateDone], "no seed ends well")
	require.NotZero(t, ends[StateLost], "no seed loses anything")
}
