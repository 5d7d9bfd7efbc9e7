package budget

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

func TestParseRates(t *testing.T) {
	rates, err := ParseRates(" api:10/1s+20; tags:60/1m;manifests:50/1s + 10 ")
	require.NoError(t, err)
	require.Equal(t, map[Kind]zone{
		API: {API, Rate{Rate: 10, Burst: 20}, Rate{}}, Tags: {Tags, Rate{Rate: 1, Burst: 0}, Rate{}},
		Pull: {Manifest, Rate{Rate: 50, Burst: 10}, Rate{}}, Manifest: {Manifest, Rate{Rate: 50, Burst: 10}, Rate{}}, Blob: {Manifest, Rate{Rate: 50, Burst: 10}, Rate{}},
	}, rates.zones)
	rates, err = ParseRates("Quay.io")
	require.NoError(t, err)
	require.Equal(t, documented[quay], rates.zones)
	for text, expected := range map[string]string{
		"":                   "api, tags, manifests or other before a colon",
		"docker.io":          "api, tags, manifests or other before a colon",
		"blobs:5/1s":         "api, tags, manifests or other before a colon",
		"api:5":              "requests/window, such as 20/1s",
		"api:0/1s":           "a number of requests from 1 to 1000000 before the /",
		"api:5/1ms":          "a window from 1s to 168h after the /, such as 6h, 90m or 10s",
		"api:5/1s+":          "a number of requests from 0 to 1000000 after the +",
		"api:5/1s+-1":        "a number of requests from 0 to 1000000 after the +",
		"api:5/1s;api:6/1s":  "one rate for each kind",
		"api:5/1s;;tags:1/s": "api, tags, manifests or other before a colon",
	} {
		_, err := ParseRates(text)
		require.ErrorIs(t, err, ErrRates, text)
		require.ErrorContains(t, err, "expected "+expected, text)
	}
}

// TestSetRates: the fleet keeps the configured rates of a host, over any protocol. Those of quay.io
// cannot be configured.
func TestSetRates(t *testing.T) {
	t.Parallel()
	s := opened(t, brokertest.Embedded(t), 0)
	rates, err := ParseRates("api:10/1s+20")
	require.NoError(t, err)
	s.SetRates(registry, rates)
	line, rate, limited := s.rate(registry, API, HTTP2)
	require.True(t, limited)
	require.Equal(t, HTTP1, line.protocol)
	require.InDelta(t, 9, rate.Rate, 0.01)
	require.NotZero(t, rate.Burst)
	_, _, limited = s.rate(registry, Tags, HTTP2)
	require.False(t, limited)
	require.NoError(t, s.PaceOver(t.Context(), registry, API, HTTP2))
	require.NotZero(t, s.lane(line).last)

	rates, err = ParseRates(quay)
	require.NoError(t, err)
	s.SetRates(registry, rates)
	line, _, _ = s.rate(registry, API, HTTP2)
	require.Equal(t, HTTP2, line.protocol)
}
