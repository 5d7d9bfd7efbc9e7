package chunk

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWhoHadNothingComesFirst, and nobody in the same moment.
func TestWhoHadNothingComesFirst(t *testing.T) {
	const wait = time.Hour // a spread of a minute and a second
	hungry, served := &execution{}, &execution{}
	served.progress.pulls = 1
	times := map[time.Duration]bool{}
	for range 100 {
		first, second := hungry.turn(wait), served.turn(wait)
		require.Less(t, first, second)
		require.LessOrEqual(t, second, time.Minute+time.Second)
		times[first.Truncate(time.Second)] = true
	}
	require.Greater(t, len(times), 10)
}
