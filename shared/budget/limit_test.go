package budget

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseLimits(t *testing.T) {
	got, err := ParseLimits(" index.docker.io=100/6h , quay.io=20/1s,localhost:5000=7/1h30m, ")
	require.NoError(t, err)
	require.Equal(t, map[string]Limit{
		"docker.io": {100, 6 * time.Hour}, "quay.io": {20, time.Second}, "localhost:5000": {7, 90 * time.Minute},
	}, got)
	got, err = ParseLimits("")
	require.NoError(t, err)
	require.Empty(t, got)

	for item, expected := range map[string]string{
		"docker.io":                  "registry=requests/window",
		"docker.io=100":              "registry=requests/window",
		"=100/6h":                    "host name of a registry",
		"nginx=1/1h":                 "host name of a registry",
		"docker.io/nginx=1/1h":       "host name of a registry",
		"docker.io=many/6h":          "a number of requests from 1",
		"docker.io=0/6h":             "a number of requests from 1",
		"docker.io=-1/6h":            "a number of requests from 1",
		"docker.io=9999999/6h":       "to 1000000",
		"docker.io=1/6":              "a window from 1s to 168h",
		"docker.io=1/-6h":            "a window from 1s to 168h",
		"docker.io=1/10ms":           "a window from 1s to 168h",
		"docker.io=1/1000h":          "a window from 1s to 168h",
		"registry-1.docker.io=1/10s": "one limit for docker.io",
	} {
		_, err := ParseLimits("docker.io=1/1h," + item + ",quay.io=x/1s")
		if item != "registry-1.docker.io=1/10s" {
			_, err = ParseLimits(item + ",quay.io=x/1s")
		}
		require.ErrorIs(t, err, errLimit, item)
		require.ErrorContains(t, err, `"`+item+`": expected `)
		require.ErrorContains(t, err, expected, item)
		require.ErrorContains(t, err, `"quay.io=x/1s"`, "the error names every bad item")
	}
}

func TestLimitString(t *testing.T) {
	for want, l := range map[string]Limit{
		"100/6h": {100, 6 * time.Hour}, "1/1h30m": {1, 90 * time.Minute}, "2/10m": {2, 10 * time.Minute},
		"20/1s": {20, time.Second}, "3/1m30s": {3, 90 * time.Second},
	} {
		require.Equal(t, want, l.String())
	}
}

func TestParseQuota(t *testing.T) {
	header := func(limit, remaining string) http.Header {
		h := http.Header{}
		h.Set("RateLimit-Limit", limit)
		h.Set("RateLimit-Remaining", remaining)
		return h
	}
	limit := Limit{100, 6 * time.Hour}
	for remaining, want := range map[string]int{"76;w=21600": 76, "0;w=21600": 0, "12": 12, "": 100, "x": 100, "-3": 0, "500": 100} {
		q, ok := ParseQuota(header("100;w=21600", remaining))
		require.True(t, ok)
		require.Equal(t, Quota{Limit: limit, Remaining: want}, q, remaining)
	}
	for _, bad := range []string{"", "100", "100;w=", "100;w=0", "0;w=21600", "-1;w=1", "100;w=99999999999999999999", "100;w=9999999999", "a;w=b"} {
		_, ok := ParseQuota(header(bad, "1"))
		require.False(t, ok, bad)
	}
}
