package command

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/redact"
)

// followedLog is the writer of a log. While a run is followed on the same terminal, it keeps records
// apart from the lines that are redrawn.
type followedLog struct {
	width func() int // columns of the terminal; nil if the log does not go to a terminal

	mu       sync.Mutex
	to       io.Writer
	followed bool
}

func newFollowedLog(to io.Writer) *followedLog {
	return &followedLog{to: to, width: display.Width(to)}
}

// Write implements io.Writer.
func (l *followedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

// through sends the log through the writer that wrap returns, until the returned function
// is called.
func (l *followedLog) through(wrap func(io.Writer) io.Writer) (undo func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.to
	l.to, l.followed = wrap(before), true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.to, l.followed = before, false
	}
}

// logger returns a logger that writes to l. While a run is followed on a terminal, it shortens records
// at level info to single lines, because the records of a few images would fill the screen.
func (l *followedLog) logger(settings *config.Log) *slog.Logger {
	log := settings.Logger(l)
	if l.width == nil || !strings.EqualFold(settings.Format, "text") {
		return log
	}
	log = slog.New(briefHandler{Handler: log.Handler(), log: l})
	slog.SetDefault(log)
	return log
}

// columns returns the greatest width of a line of the log, or 0 if there is no limit.
func (l *followedLog) columns() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.followed {
		return 0
	}
	return l.width() - 1 // some terminals wrap as soon as the last column is written
}

// briefHandler writes records at level info as single lines while a run is followed.
type briefHandler struct {
	slog.Handler
	log   *followedLog
	attrs []slog.Attr
}

// Handle implements slog.Handler.
func (h briefHandler) Handle(ctx context.Context, r slog.Record) error {
	columns := h.log.columns()
	if columns <= 0 || r.Level != slog.LevelInfo {
		return h.Handler.Handle(ctx, r)
	}
	_, err := io.WriteString(h.log, redact.Text(display.LogLine(r, slices.Clone(h.attrs), columns))+"\n")
	return err
}

// WithAttrs implements slog.Handler.
func (h briefHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return briefHandler{h.Handler.WithAttrs(attrs), h.log, slices.Concat(h.attrs, attrs)}
}

// WithGroup implements slog.Handler.
func (h briefHandler) WithGroup(name string) slog.Handler {
	return briefHandler{h.Handler.WithGroup(name), h.log, h.attrs}
}
