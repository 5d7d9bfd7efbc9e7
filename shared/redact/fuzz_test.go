package redact

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzLine: any text becomes one line without control characters.
func FuzzLine(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		line := Line(text)
		require.LessOrEqual(t, len(line), maxLength)
		require.True(t, utf8.ValidString(line))
		require.Equal(t, -1, strings.IndexFunc(line, func(c rune) bool { return !unicode.IsPrint(c) }), "%q", line)
		require.NotContains(t, Line("get https://user:s3cr3tpass@registry.example.com/v2/"+text), "s3cr3tpass")
	})
}
