package heap

import (
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReserve: the heap may grow by the reserve, unless GOGC is set.
func TestReserve(t *testing.T) {
	t.Setenv("GOGC", "100")
	Reserve()
	require.Nil(t, reserved)
	t.Setenv("GOGC", "")
	Reserve()
	runtime.GC()
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	metrics.Read(goal)
	require.GreaterOrEqual(t, goal[0].Value.Uint64(), uint64(2*reserve))
}
