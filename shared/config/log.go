package config

import (
	"io"
	"log/slog"
	"strings"

	"github.com/osism/skopeo-worker/shared/redact"
)

// Log is the settings of the log.
type Log struct {
	Level  slog.Level `envconfig:"LOG_LEVEL" default:"info" expect:"debug, info, warn or error" desc:"debug, info, warn or error"`
	Format string     `envconfig:"LOG_FORMAT" default:"text" expect:"text or json" desc:"text or json"`
}

// Validate implements validator.
func (l *Log) Validate() []error {
	if f := strings.ToLower(l.Format); f != "text" && f != "json" {
		return []error{Bad("LOG_FORMAT", l.Format, "text or json")}
	}
	return nil
}

// Logger returns a logger that writes to w, without secrets. It also becomes the default logger, which
// libraries use.
func (l *Log) Logger(w io.Writer) *slog.Logger {
	log := l.logger(w)
	slog.SetDefault(log)
	return log
}

func (l *Log) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: l.Level, ReplaceAttr: withoutSecrets}
	if strings.EqualFold(l.Format, "json") {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// withoutSecrets removes secrets from the message and the attributes. It is a ReplaceAttr of
// slog.HandlerOptions.
func withoutSecrets(_ []string, a slog.Attr) slog.Attr {
	var text string
	switch value := a.Value.Any().(type) {
	case string:
		text = value
	case []byte:
		text = string(value)
	default:
		text = a.Value.String()
	}
	// A value without secrets keeps its type, and so its format.
	if clean := redact.Text(text); clean != text {
		a.Value = slog.StringValue(clean)
	}
	return a
}
