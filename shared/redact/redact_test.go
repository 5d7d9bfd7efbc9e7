package redact

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestLine(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"plain", "manifest unknown", "manifest unknown"},
		{"bearer", "sent Bearer eyJhbGciOi.J9.x-y_z to it", "sent Bearer xxxxx to it"},
		{"basic", "Authorization: Basic dXNlcjpwYXNzd29yZA==", "Authorization: Basic xxxxx"},
		{"a sentence is no token", "basic authentication required", "basic authentication required"},
		{"userinfo", "Get https://bob:hun@ter2@quay.io/v2/: EOF", "Get https://quay.io/v2/: EOF"},
		{"signed URL", `Get "https://s3.example/b?X-Amz-Signature=abc&X-Amz-Date=1": EOF`, `Get "https://s3.example/b?xxxxx": EOF`},
		{"by name", "grant_type=password&password=hunter2&refresh_token=abc", "grant_type=password&password=xxxxx&refresh_token=xxxxx"},
		{"JSON", `{"token":"abc","access_token": "def"}`, `{"token":"xxxxx","access_token": "xxxxx"}`},
		{"lines and controls", "a\r\n\tb\x1b[0m \x00c", "a b [0m c"},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, Line(test.text))
		})
	}
}

func TestLineIsCutBetweenRunes(t *testing.T) {
	got := Line(strings.Repeat("ä", maxLength))
	require.LessOrEqual(t, len(got), maxLength)
	require.Greater(t, len(got), maxLength-8)
	require.True(t, utf8.ValidString(got))
	require.True(t, strings.HasSuffix(got, "…"))
}
