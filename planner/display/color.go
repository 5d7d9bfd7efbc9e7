package display

import (
	"fmt"
	"os"

	"github.com/osism/skopeo-worker/shared/run"
)

// Color is when output has colors. It is the value of a flag.
type Color string

// The values of Color.
const (
	ColorAuto   Color = "auto"
	ColorAlways Color = "always"
	ColorNever  Color = "never"
)

// String implements pflag.Value.
func (c *Color) String() string { return string(*c) }

// Type implements pflag.Value.
func (c *Color) Type() string { return "when" }

// Set implements pflag.Value.
func (c *Color) Set(s string) error {
	switch v := Color(s); v {
	case ColorAuto, ColorAlways, ColorNever:
		*c = v
		return nil
	}
	return fmt.Errorf("expected auto, always or never")
}

// On reports whether output has colors. If the flag does not say so, that is on a terminal,
// unless NO_COLOR is set (no-color.org) or the terminal is dumb.
func (c Color) On(terminal bool) bool {
	switch c {
	case ColorAlways:
		return true
	case ColorNever:
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

// on returns a text in the color, or as it is if there are no colors or p is "".
func (p paint) on(colors bool, text string) string {
	if !colors || p == "" || text == "" {
		return text
	}
	return "\x1b[" + string(p) + "m" + text + "\x1b[0m"
}

// stateColor returns the color of the state of a run. A run that waits for something is yellow.
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
