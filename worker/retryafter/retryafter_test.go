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
