package command

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestNow: if the clock of this machine is ahead of the broker's, no grace period ends early.
func TestNow(t *testing.T) {
	se := &session{Broker: brokertest.Embedded(t)}
	var said strings.Builder
	here := time.Now()
	now, err := se.now(t.Context(), here, &said)
	require.NoError(t, err)
	require.Equal(t, here, now)
	require.Empty(t, said.String())

	now, err = se.now(t.Context(), here.Add(40*day), &said)
	require.NoError(t, err)
	require.Less(t, now.Sub(here), day)
	require.Regexp(t, `^warning: the clock of this machine is 9[0-9]{2}h[0-9]+m[0-9]+s ahead of the broker's, which counts\n$`, said.String())
}
