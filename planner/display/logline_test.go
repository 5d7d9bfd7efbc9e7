package display

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLogLine(t *testing.T) {
	record := slog.NewRecord(time.Date(2026, 3, 1, 2, 30, 5, 0, time.Local), slog.LevelInfo, "mirrored a new tag", 0)
	record.Add("image", "quay.io/osism/a-long-name:2025.1", "run", "r1", "bytes", int64(3<<20), "took", 1234*time.Millisecond)
	require.Equal(t, "02:30:05  mirrored a new tag  quay.io/osism/a-long-name:2025.1  3.0 MiB  1.2s", LogLine(record, nil, 100))
	require.Equal(t, "02:30:05  mirrored a new tag  …a-long-name:2025.1  3.0 MiB  1.2s", LogLine(record, nil, 64))
	require.Equal(t, "02:30:05  mirrored a", LogLine(record, nil, 20))
	require.Equal(t, "02:30:05  mirrored a new tag  other  3.0 MiB  1.2s", LogLine(record, []slog.Attr{slog.String("run", "r2"), slog.Int("chunk", 1), slog.String("worker", "other")}, 79))

	record = slog.NewRecord(record.Time, slog.LevelInfo, "bad\x1b[2J", 0)
	record.Add("image", "a\nb")
	require.NotContains(t, LogLine(record, nil, 80), "\x1b")
	require.NotContains(t, LogLine(record, nil, 80), "\n")
}
