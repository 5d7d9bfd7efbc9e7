package budget

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// BenchmarkTake measures tokens a second, of a listening broker and of the embedded
// one, which writes each token to the disk before it answers.
func BenchmarkTake(b *testing.B) {
	server := brokertest.Start(b)
	connections := map[string]func() (*Store, error){
		"listening": func() (*Store, error) {
			return Open(b.Context(), brokertest.Open(b, server.Config()), slog.New(slog.DiscardHandler))
		},
		"embedded": func() (*Store, error) {
			return Open(b.Context(), brokertest.Embedded(b), slog.New(slog.DiscardHandler))
		},
	}
	for name, connect := range connections {
		b.Run(name, func(b *testing.B) {
			s, err := connect()
			require.NoError(b, err)
			defer s.Close()
			require.NoError(b, s.SetLimits(b.Context(), "default", map[string]Limit{registry: {maxRequests, time.Hour}}))
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Take(b.Context(), "", registry, ""); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkPace measures what pacing costs the broker when many wait at once.
func BenchmarkPace(b *testing.B) {
	s, err := Open(b.Context(), brokertest.Embedded(b), slog.New(slog.DiscardHandler))
	require.NoError(b, err)
	defer s.Close()
	l := s.lane(line{registry, Manifest, HTTP1})
	before := s.b.Conn.Stats().OutMsgs
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.wait(b.Context(), s, Rate{Rate: maxRequests}); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(s.b.Conn.Stats().OutMsgs-before)/float64(b.N), "messages/op")
}
