package display

import (
	"errors"
	"os"

	"github.com/osism/skopeo-worker/shared/run"
)

// Color is the value of a flag that states when output has colors.
type Color string

// The values of Color.
const (
	ColorAuto   Color = "auto"
	colorAlways Color = "always"
	colorNever  Color = "never"
)

// MarshalText implements encoding.TextMarshaler.
func (c Color) MarshalText() ([]byte, error) { return []byte(c), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Color) UnmarshalText(text []byte) error {
	switch *c = Color(text); *c {
	case ColorAuto, colorAlways, colorNever:
		return nil
	}
	return errors.New("expected auto, always or never")
}

// On reports whether output has colors. With ColorAuto, it has colors on a terminal, unless NO_COLOR
// is set (no-color.org) or TERM is dumb.
func (c Color) On(terminal bool) bool {
	switch c {
	case colorAlways:
		return true
	case colorNever:
		return false
	}
	return terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// paint is a color, as ECMA-48's SGR has it.
type paint string

const (
	red    paint = "31"
	green  paint = "32"
	yellow paint = "33"
	faint  paint = "2"
)

// on returns the text in the color. If colors is false or p is "", it returns the text unchanged.
func (p paint) on(colors bool, text string) string {
	if !colors || p == "" || text == "" {
		return text
	}
	return "\x1b[" + string(p) + "m" + text + "\x1b[0m"
}

// stateColor returns the color for the state of a run.
func stateColor(state string) paint {
	switch state {
	case run.StateDone:
		return green
	case run.StateFailed, run.StateLost:
		return red
	case run.StateRunning:
		return ""
	}
	return yellow
}
