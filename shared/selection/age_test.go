package selection

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAge(t *testing.T) {
	for text, want := range map[string]time.Duration{"90d": 90 * day, "1d": day, "36h": 36 * time.Hour, "1h30m": 90 * time.Minute, "24h": day} {
		age, err := ParseAge(text)
		require.NoError(t, err, text)
		require.Equal(t, Age(want), age, text)
		data, err := json.Marshal(Selection{MinAge: age})
		require.NoError(t, err)
		var s Selection
		require.NoError(t, json.Unmarshal(data, &s))
		require.Equal(t, age, s.MinAge)
	}
	for _, text := range []string{"", "0", "0d", "-1d", "1.5d", "90", "d", "1 d", "99999d", "1y", "-2h", "0s"} {
		_, err := ParseAge(text)
		require.ErrorContains(t, err, "expected days such as 90d or a duration such as 36h", text)
	}
	data, err := json.Marshal(Selection{Limit: 1})
	require.NoError(t, err)
	require.JSONEq(t, `{"limit":1}`, string(data))
}
