package redact

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestURL(t *testing.T) {
	for text, want := range map[string]string{
		"lists/a@b.yml":                      "lists/a@b.yml",
		"https://example.com/list.yml":       "https://example.com/list.yml",
		"https://u:p@example.com/l?a=1&b=2#": "https://example.com/l?xxxxx",
		"https://token@example.com/l#frag":   "https://example.com/l",
		"https://u:p/w@example.com/l":        "https://xxxxx",
		"u:p@example.com/l":                  "xxxxx@example.com/l",
	} {
		require.Equal(t, want, URL(text))
		require.Equal(t, want, Text(URL(text)), "what is shown already stays as it is")
	}
}
