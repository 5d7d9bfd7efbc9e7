package retryafter

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"120":   2 * time.Minute,
		"0":     0,
		"86400": time.Hour,
		"-5":    0,
		"":      0,
		"soon":  0,
		"1.5":   0,
		now.Add(90 * time.Second).Format(http.TimeFormat):           90 * time.Second,
		now.Add(-time.Minute).Format(http.TimeFormat):               0,
		now.Add(6 * time.Hour).Format(http.TimeFormat):              time.Hour,
		strconv.FormatInt(now.Add(30*time.Second).Unix(), 10):       30 * time.Second,
		strconv.FormatInt(now.Add(-30*time.Second).Unix(), 10):      0,
		strconv.FormatInt(now.Add(30*time.Second).Unix()*1_000, 10): time.Hour,
		"9223372036854775807":                                       time.Hour,
		"99999999999999999999999":                                   0,
	} {
		require.Equal(t, want, Parse(value, now), "%q", value)
	}
}

// TestOtherClocks: the clocks of the registry and of this machine may differ.
func TestOtherClocks(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, off := range []time.Duration{0, -20 * time.Minute, 20 * time.Minute} {
		at := now.Add(off)
		for _, value := range []string{"30", at.Add(30 * time.Second).Format(http.TimeFormat), strconv.FormatInt(at.Add(30*time.Second).Unix(), 10)} {
			header := http.Header{"Date": {at.Format(http.TimeFormat)}, "Retry-After": {value}}
			require.Equal(t, 30*time.Second, In(header, now), value)
			header.Set("Date", "today")
			require.Equal(t, 30*time.Second, In(header, at), value)
		}
	}
}
