package display

import (
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"
)

// LogLine returns a log record as one line of at most the width. The line has the time of day, the
// message, and the first attribute other than run and chunk, which usually names an image. A size
// (bytes) and a duration (took) follow. A long name loses its beginning.
func LogLine(r slog.Record, attributes []slog.Attr, width int) string {
	r.Attrs(func(a slog.Attr) bool {
		attributes = append(attributes, a)
		return true
	})
	var about, rest string
	for _, a := range attributes {
		value := a.Value.Resolve()
		switch {
		case a.Key == "run" || a.Key == "chunk": // the same in all records of the run
		case about == "":
			about = value.String()
		case a.Key == "bytes" && value.Kind() == slog.KindInt64:
			rest += "  " + Size(value.Int64())
		case a.Key == "took" && value.Kind() == slog.KindDuration:
			rest += "  " + value.Duration().Round(100*time.Millisecond).String()
		}
	}
	begin := r.Time.Local().Format(time.TimeOnly) + "  " + printable(r.Message)
	about = printable(about)
	if room := width - utf8.RuneCountInString(begin+rest) - 2; room > 0 && about != "" {
		begin += "  " + tail(about, room)
	}
	return strings.TrimRight(cut(begin+rest, width), " ")
}
