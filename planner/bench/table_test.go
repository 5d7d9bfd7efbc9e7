package bench

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRatio(t *testing.T) {
	done := func(seconds float64) result { return result{used: used{Seconds: seconds}} }
	ended := result{used: used{Seconds: 45, Ended: outOfTime}}
	failed := result{used: used{Seconds: 1, Ended: "exit status 1"}}
	partial := result{used: used{Seconds: 1}, Missing: 3}
	for _, test := range []struct {
		base, r result
		want    string
	}{
		{done(10), done(4), "2.5 ×"},
		{done(10), ended, ""},
		{done(10), failed, ""},
		{done(10), partial, ""},
		{ended, done(9), "> 5.0 ×"},
		{ended, ended, ""},
		{failed, done(9), ""},
		{partial, done(9), ""},
	} {
		require.Equal(t, test.want, ratio(test.base, test.r), "%+v of %+v", test.r, test.base)
	}
	require.Equal(t, "complete", done(1).ending())
	require.Equal(t, "3 missing", partial.ending())
	require.Equal(t, "out of time, 2 with another digest", result{used: ended.used, Changed: 2}.ending())
}
