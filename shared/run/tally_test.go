package run

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryOutcome: each outcome has a field of Tally, and each field except Total has an outcome.
func TestEveryOutcome(t *testing.T) {
	var tally Tally
	for i, o := range Outcomes {
		require.Zero(t, *tally.Of(o), o)
		*tally.Of(o) = 1 << i
	}
	require.Equal(t, 1<<len(Outcomes)-1, tally.Ended())
	require.Equal(t, reflect.TypeFor[Tally]().NumField(), len(Outcomes)+1)
	sum := tally
	sum.add(tally)
	require.Equal(t, 2*tally.Ended(), sum.Ended())
	require.Panics(t, func() { tally.Of("unknown") })
}
