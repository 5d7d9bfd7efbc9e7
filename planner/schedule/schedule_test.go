package schedule

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNext(t *testing.T) {
	at := func(text string) time.Time {
		parsed, err := time.Parse(time.RFC3339, text)
		require.NoError(t, err)
		return parsed
	}
	for _, c := range []struct{ words, zone, after, want string }{
		{"30 2 * * *", "Europe/Berlin", "2026-07-01T02:30:00+02:00", "2026-07-02T02:30:00+02:00"},
		{"30 2 * * *", "UTC", "2026-07-01T02:29:59Z", "2026-07-01T02:30:00Z"},
		{"@daily", "America/New_York", "2026-07-01T12:00:00Z", "2026-07-02T04:00:00Z"},
		// If clocks skip an hour, the night still has a plan.
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00+01:00", "2026-03-29T03:30:00+02:00"},
		{"0 0 * * *", "America/Havana", "2026-03-07T12:00:00-05:00", "2026-03-08T01:00:00-04:00"},
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00+10:30", "2026-10-04T02:45:00+11:00"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-29T03:10:00+02:00", "2026-03-29T03:30:00+02:00"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00"},
		// If clocks repeat an hour, the night has only one plan.
		{"30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00+02:00", "2026-10-25T02:30:00+02:00"},
		{"30 2 * * *", "Europe/Berlin", "2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"},
		{"30 2 * * *", "Europe/Berlin", "2026-10-25T02:10:00+01:00", "2026-10-26T02:30:00+01:00"},
		{"*/30 2,3 * * *", "Europe/Berlin", "2026-10-25T02:30:00+02:00", "2026-10-25T03:00:00+01:00"},
		{"@daily", "America/Havana", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"},
		{"45 1 * * *", "Australia/Lord_Howe", "2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"},
		// Every hour means every hour that really passes.
		{"0 * * * *", "Europe/Berlin", "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"},
		{"@every 1h", "Europe/Berlin", "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"},
	} {
		s, err := Parse(c.words, c.zone)
		require.NoError(t, err)
		require.Equal(t, at(c.want).UTC(), s.Next(at(c.after)).UTC(), "%+v", c)
	}
}

func TestInvalid(t *testing.T) {
	for _, c := range [][2]string{
		{"", ""}, {"daily", ""}, {"* * * *", ""}, {"61 * * * *", ""}, {"0 0 30 2 *", ""}, {"TZ=", ""}, {"TZ=Nowhere/City 0 0 * * *", ""}, {"CRON_TZ=Asia/Tokyo 0 0 * * *", "Europe/Berlin"},
		{"0 0 * * *", "Mars/Base"}, {"0 0 * * *", "../../etc/passwd"},
	} {
		_, err := Parse(c[0], c[1])
		require.ErrorIs(t, err, errInvalid, "%q", c)
	}
}

func FuzzParse(f *testing.F) {
	for _, words := range []string{"30 2 * * *", "@daily", "@every 1h", "TZ= 0 0 * * *", "*/5 0-6 1,15 jan-mar sun"} {
		f.Add(words, "Europe/Berlin")
	}
	f.Fuzz(func(t *testing.T, words, zone string) {
		s, err := Parse(words, zone)
		if err != nil {
			require.ErrorIs(t, err, errInvalid)
			return
		}
		now := time.Now()
		if next := s.Next(now); !next.After(now) {
			t.Fatalf("%q in %q: %s is not after %s", words, zone, next, now)
		}
	})
}

func TestWait(t *testing.T) {
	require.NoError(t, Wait(t.Context(), time.Now().Add(-time.Second)))
	require.NoError(t, Wait(t.Context(), time.Now().Add(time.Millisecond)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, Wait(ctx, time.Now().Add(time.Hour)), context.Canceled)
}
