package command

import (
	"bytes"
	"io"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/config"
)

// TestFollowedLog: while a run is followed on a terminal, a record at level info is a short line.
// Warnings are complete, and so are records at other times or elsewhere.
func TestFollowedLog(t *testing.T) {
	var out bytes.Buffer
	said := func() string {
		defer out.Reset()
		return out.String()
	}
	log := newFollowedLog(&out)
	log.width = func() int { return 60 }
	logger := log.logger(&config.Log{Format: "text"}).With("worker", "w1")
	mirrored := func() { logger.Info("mirrored a new tag", "image", "quay.io/a:1", "bytes", int64(1024)) }

	mirrored()
	require.Contains(t, said(), `msg="mirrored a new tag" worker=w1 image=quay.io/a:1`)
	followed := log.through(func(w io.Writer) io.Writer { return w })
	mirrored()
	require.Regexp(t, `^\d\d:\d\d:\d\d  mirrored a new tag  w1  1\.0 KiB\n$`, said())
	logger.Warn("odd")
	require.Contains(t, said(), "level=WARN msg=odd worker=w1")
	followed()
	mirrored()
	require.Contains(t, said(), "image=quay.io/a:1")

	for _, elsewhere := range []*slog.Logger{
		newFollowedLog(&out).logger(&config.Log{Format: "text"}), // no terminal
		log.logger(&config.Log{Format: "json"}),
	} {
		defer log.through(func(w io.Writer) io.Writer { return w })()
		elsewhere.Info("mirrored a new tag", "run", "r1")
		require.Contains(t, said(), "r1")
	}
}
