package estimate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPace(t *testing.T) {
	var p Pace
	now := time.Unix(0, 0)
	left := func(images int) time.Duration {
		d, known := p.Left(images)
		if !known {
			return -1
		}
		return d.Round(time.Second)
	}
	require.Equal(t, time.Duration(-1), left(10))
	p.Add(now, 100)
	p.Add(now.Add(100*time.Millisecond), 500) // too soon to count
	require.Equal(t, time.Duration(-1), left(10))
	p.Add(now.Add(10*time.Second), 100)
	require.Equal(t, time.Duration(-1), left(10), "nothing was ended since")
	p.Add(now.Add(20*time.Second), 120)
	require.Equal(t, 100*time.Second, left(100), "an image a second, all of the time")
	require.Zero(t, left(0))
	// Old observations do not count.
	for s := range 300 {
		p.Add(now.Add(20*time.Second+time.Duration(s)*time.Second), 120+10*s)
	}
	require.Equal(t, 10*time.Second, left(100))
	require.LessOrEqual(t, len(p.samples), int(paceWindow/paceStep)+2)
}

func TestImages(t *testing.T) {
	for want, c := range map[[2]any][3]int{
		{100, true}:  {100, 10, 0},
		{200, false}: {100, 10, 5},
		{0, false}:   {0, 10, 10},
		{7, false}:   {7, 1, 1},
	} {
		total, exact := Images(c[0], c[1], c[2])
		require.Equal(t, want, [2]any{total, exact})
	}
}
