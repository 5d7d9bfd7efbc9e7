package config

import (
	"io"
	"log/slog"
	"strings"
)

// Log is how a command logs.
type Log struct {
	Level  slog.Level `envconfig:"LOG_LEVEL" default:"info" expect:"debug, info, warn or error" desc:"debug, info, warn or error"`
	Format string     `envconfig:"LOG_FORMAT" default:"text" expect:"text or json" desc:"text or json"`
}

// Validate implements Validator.
func (l *Log) Validate() []error {
	if f := strings.ToLower(l.Format); f != "text" && f != "json" {
		return []error{Bad("LOG_FORMAT", l.Format, "text or json")}
	}
	return nil
}

// Logger writes to w.
func (l *Log) Logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: l.Level}
	if strings.EqualFold(l.Format, "json") {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
