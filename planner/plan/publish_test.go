package plan

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/shared/subject"
)

const name = "site"

// chunks returns two chunks of one entry each, due in an hour.
func chunks(t *testing.T) []Chunk {
	destination, err := reference.ParseDestination("registry.example/hub")
	require.NoError(t, err)
	l, err := list.Parse([]byte("containers: [quay.io/osism/osism:1, quay.io/osism/osism:2]"), "list", destination, selection.Selection{})
	require.NoError(t, err)
	chunks, err := Chunking{Size: 1}.Split(l.Entries, time.Now().Add(time.Hour))
	require.NoError(t, err)
	return chunks
}

// TestPurges: a plan purges only the planned chunks of older plans.
func TestTheFirstPlanPurgesNothing(t *testing.T) {
	b := brokertest.Embedded(t)
	runs, err := run.Open(t.Context(), b)
	require.NoError(t, err)
	purges, err := b.Conn.SubscribeSync("$JS.API.STREAM.PURGE.>")
	require.NoError(t, err)
	p := Publisher{Broker: b, Runs: runs}
	publish := func(id string) int {
		_, err := p.Publish(t.Context(), run.Run{Name: name, ID: id, Kind: run.KindPlan, Started: time.Now()}, chunks(t), true)
		require.NoError(t, err)
		require.NoError(t, b.Conn.Flush())
		n, _, err := purges.Pending()
		require.NoError(t, err)
		return n
	}
	require.Zero(t, publish("r1"))
	require.Equal(t, 1, publish("r2"), "of the older run")
	_, err = purges.NextMsg(nats.DefaultTimeout)
	require.NoError(t, err)
}

// TestDueChunksAreFiredAtOnce: without Publish's own firing, nats-server would wait for broker.Handover.
func TestDueChunksAreFiredAtOnce(t *testing.T) {
	b := brokertest.Embedded(t)
	runs, err := run.Open(t.Context(), b)
	require.NoError(t, err)
	p := Publisher{Broker: b, Runs: runs}
	due := chunks(t)
	for {
		began := time.Now()
		due[0].Due = began
		_, err = p.Publish(t.Context(), run.Run{Name: name, ID: "r1", Kind: run.KindPlan, Started: began}, due, true)
		require.NoError(t, err)
		if time.Since(began) < broker.Handover/2 {
			break
		}
		require.NoError(t, b.Stream.Purge(t.Context())) // the machine is busy, so the server may have fired it
	}
	for root, left := range map[string]int{subject.Plan: 1, subject.Chunk: 1} {
		info, err := b.Stream.Info(t.Context(), jetstream.WithSubjectFilter(root+".>"))
		require.NoError(t, err)
		require.Len(t, info.State.Subjects, left, root)
	}
	m, err := b.Consumer.Next(jetstream.FetchMaxWait(time.Minute))
	require.NoError(t, err)
	require.Equal(t, due[0].address(name, "r1", 0).Under(subject.Chunk), m.Subject())
}
