package bench

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/subject"
)

// BenchmarkPublish publishes a plan of 100,000 entries in 10,000 chunks. No rival
// has a plan.
func BenchmarkPublish(b *testing.B) {
	var list strings.Builder
	list.WriteString("containers:\n")
	for i := range 100_000 {
		fmt.Fprintf(&list, "  - quay.io/organisation%d/repository%d\n", i/1000, i)
	}
	path := write(b, b.TempDir(), "list.yml", list.String())
	for b.Loop() {
		server := brokertest.Start(b)
		u := execute(b, time.Minute, []string{
			"NATS_URL=" + server.URL(), "MIRROR_SOURCE_URL=" + path, "MIRROR_DEST_URL=registry.example.com/mirror",
			"CHUNK_INTERVAL=1s",
		}, "planner", "plan")
		require.Empty(b, u.Ended, u.output)
		b.ReportMetric(u.Seconds, "s")
		b.ReportMetric(u.Memory, "MB")
	}
}

// BenchmarkDelivery waits for 10,000 chunks that are due at one moment.
func BenchmarkDelivery(b *testing.B) {
	const chunks, workers = 10_000, 50
	for b.Loop() {
		server := brokertest.Start(b)
		br := brokertest.Open(b, server.Config())
		due := time.Now().Add(3 * time.Second)
		var msgs []*nats.Msg
		for i := range chunks {
			a := subject.NewAddress("default", "20260101-000000-000-0000", "quay.io", fmt.Sprintf("%06d", i+1))
			msgs = append(msgs, broker.Scheduled(subject.Plan, a, due, make([]byte, 1000)))
		}
		_, err := br.PublishAll(b.Context(), msgs)
		require.NoError(b, err)
		require.True(b, time.Now().Before(due), "published before they are due")
		b.ReportMetric(deliver(b, server, chunks, workers).Sub(due).Seconds(), "s-late")
	}
}

// deliver takes the chunks as workers do and returns when the last one came.
func deliver(b *testing.B, server *brokertest.Server, chunks, workers int) time.Time {
	b.Helper()
	ctx, done := context.WithCancel(b.Context())
	defer done()
	received := make(chan time.Time, chunks)
	var group errgroup.Group
	for range workers {
		br := brokertest.Open(b, server.Config())
		messages, err := br.Consumer.Messages(jetstream.PullMaxMessages(1))
		require.NoError(b, err)
		context.AfterFunc(ctx, messages.Stop)
		group.Go(func() error {
			for {
				m, err := messages.Next()
				if ctx.Err() != nil {
					return nil
				}
				if err != nil {
					return err
				}
				received <- time.Now()
				if err := m.Ack(); err != nil {
					return err
				}
			}
		})
	}
	var last time.Time
	for range chunks {
		last = <-received
	}
	done()
	require.NoError(b, group.Wait())
	return last
}
