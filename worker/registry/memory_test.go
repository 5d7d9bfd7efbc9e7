package registry

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHabitsAreForgotten(t *testing.T) {
	now := time.Now()
	m := newMemory(func() time.Time { return now })
	m.note("a")
	now = now.Add(rememberFor - 1)
	require.True(t, m.isKnown("a"))
	require.False(t, m.isKnown("b"))
	now = now.Add(1)
	require.False(t, m.isKnown("a"))
}
