package listing

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTimes: a time that no tag can have is unknown, and of two times the later one counts.
func TestTimes(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, time.May, n, 0, 0, 0, 0, time.UTC) }
	for text, want := range map[string]time.Time{
		`"last_updated":"2026-05-01T00:00:00Z","tag_last_pushed":"2026-05-02T00:00:00.000000Z"`: day(2),
		`"last_updated":"2026-05-02T00:00:00Z","tag_last_pushed":"2026-05-01T00:00:00Z"`:        day(2),
		`"last_updated":null,"tag_last_pushed":"2026-05-01T00:00:00Z"`:                          day(1),
		`"last_updated":"2026-05-01T00:00:00Z","tag_last_pushed":null`:                          day(1),
		`"last_updated":"0001-01-01T00:00:00Z","tag_last_pushed":"yesterday"`:                   {},
		`"last_updated":"1970-01-01T00:00:01Z"`:                                                 {},
	} {
		page, err := readHub([]byte(`{"results":[{"name":"1",` + text + `}]}`))
		require.NoError(t, err, text)
		require.Equal(t, want, page.tags[0].Updated, text)
	}
	for text, want := range map[string]time.Time{
		fmt.Sprintf(`"start_ts":%d`, day(1).Unix()):                         day(1),
		`"start_ts":null,"last_modified":"Fri, 01 May 2026 00:00:00 -0000"`: day(1),
		`"start_ts":1`: {},
		`"start_ts":-5,"last_modified":"Thu, 01 Jan 1970 00:00:01 -0000"`: {},
		`"start_ts":null,"last_modified":null`:                            {},
	} {
		page, err := readQuay([]byte(`{"tags":[{"name":"1",` + text + `}]}`))
		require.NoError(t, err, text)
		require.Equal(t, want, page.tags[0].Updated, text)
	}
}
