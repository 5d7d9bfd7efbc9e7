package registry

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMissingAPIsAreForgotten(t *testing.T) {
	now := time.Now()
	api := referrersAPI{now: func() time.Time { return now }, missing: make(map[string]time.Time)}
	api.miss("a")
	now = now.Add(missingFor - 1)
	require.True(t, api.isMissing("a"))
	require.False(t, api.isMissing("b"))
	now = now.Add(1)
	require.False(t, api.isMissing("a"))
}
