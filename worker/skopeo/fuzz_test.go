package skopeo

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"
)

// FuzzStderr: the messages found do not depend on how skopeo's output is split into writes.
func FuzzStderr(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte, cut uint16) {
		var noted []string
		note := func(what string) { noted = append(noted, what) }
		collect := func(pieces ...[]byte) *stderr {
			noted = nil
			s := &stderr{
				limited: func(l *limit) { require.GreaterOrEqual(t, l.retryAfter, time.Duration(0)); note(l.Error()) },
				pulled:  func() { note("pulled") },
				silent:  func(d time.Duration) { note(d.String()) },
			}
			for _, piece := range pieces {
				n, err := s.Write(piece)
				require.NoError(t, err)
				require.Equal(t, len(piece), n)
			}
			return s
		}
		at := min(int(cut), len(text))
		whole := collect(text)
		before := noted
		require.Equal(t, whole.tail.String(), collect(text[:at], text[at:]).tail.String())
		require.Equal(t, before, noted)
		require.Equal(t, -1, strings.IndexFunc(reason(text, errors.New("exit status 1")), unicode.IsControl))
	})
}
