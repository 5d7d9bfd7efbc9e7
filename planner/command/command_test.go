package command

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

// TestJSONIsVisible: escaped JSON has the same value, and contains nothing that controls a
// terminal.
func TestJSONIsVisible(t *testing.T) {
	want := map[string]string{"text": "grün \x1b[2J\u009b31m\u202e\x7f\u2028 \U000e0001 <&> \n 日本 \ufeff"}
	var out, lines strings.Builder
	require.NoError(t, printJSON(&out, want))
	require.NoError(t, (&lineWriter{out: &lines}).write(want))
	for _, text := range []string{out.String(), lines.String()} {
		var got map[string]string
		require.NoError(t, json.Unmarshal([]byte(text), &got))
		require.Equal(t, want, got)
		require.Equal(t, -1, strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }), "%q", text)
		require.Contains(t, text, "grün")
	}
	require.Equal(t, 1, strings.Count(lines.String(), "\n"))
}
