package budget

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestForeignEntries: garbage in place of a rate, a closure or a reservation is ignored, but
// earlier reservations still count.
func TestForeignEntries(t *testing.T) {
	for name, garbage := range map[string]struct{ header, data string }{
		"bytes":       {"", "\x1b\xff"},
		"other shape": {"", `[{}]`},
		"nonsense":    {"", `{"count":1000000,"every":3600000000000,"rate":-1,"duration":-1,"limit":{}}`},
		"header":      {"NATS/1.0\r\nnone\r\n\r\n", "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			server := brokertest.Start(t)
			b := brokertest.Open(t, server.Config())
			s := opened(t, b, 0)
			const registry = "registry.example"
			require.NoError(t, s.Pace(t.Context(), quay, Tags))
			before := s.lane(line{quay, Tags, HTTP1}).next
			alien := func(subject string) { server.Alien(t, subject, garbage.header, []byte(garbage.data)) }
			alien(s.lane(line{quay, Tags, HTTP1}).subject)
			alien("$KV." + bucketLimits + "." + line{registry, Pull, HTTP1}.foundKey())
			alien("$KV." + bucketLimits + "." + keySet + ".default." + token(registry))
			alien("$KV." + bucketClosed + "." + token(registry))

			s = opened(t, b, 0)
			lane := s.lane(line{quay, Tags, HTTP1})
			require.NoError(t, lane.read(t.Context(), s))
			require.True(t, before.Equal(lane.next), "%s, and then %s", before, lane.next)
			var spent *SpentError
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := s.Pace(ctx, quay, Tags); !errors.As(err, &spent) {
				require.NoError(t, err)
			}
			_, origin := s.stated(registry, "")
			require.Equal(t, None, origin)
			_, err := s.Take(ctx, "", registry, "")
			require.NoError(t, err)
			require.NoError(t, s.Refused(ctx, Call{Registry: registry, Kind: Pull, Started: time.Now()}, time.Minute, "429"))
			_, _, closed := s.Closed(registry)
			require.True(t, closed)
		})
	}
}
