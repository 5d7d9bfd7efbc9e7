package brokertest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	mirrorName = "default"
	registry   = "registry.example"
	// patience is how long a test waits for an event; a cluster takes up to 9 s to elect a
	// leader.
	patience = 40 * time.Second
	tick     = 20 * time.Millisecond
)

// cluster is a cluster with a client at each of its nodes.
type cluster struct {
	*brokertest.Cluster
	brokers []*broker.Broker
	stores  []*budget.Store
}

// newCluster opens all clients at once, as on the first start of a deployment.
func newCluster(t *testing.T) *cluster {
	c := &cluster{Cluster: brokertest.StartCluster(t)}
	n := len(c.Nodes)
	c.brokers, c.stores = make([]*broker.Broker, n), make([]*budget.Store, n)
	var clients sync.WaitGroup
	for i := range c.Nodes {
		clients.Go(func() {
			b, err := broker.Open(t.Context(), c.Config(), broker.Options{Client: t.Name(), Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(b.Close)
			c.brokers[i] = b
			if c.stores[i], err = budget.Open(t.Context(), b, slog.New(slog.DiscardHandler)); err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(c.stores[i].Close)
		})
	}
	clients.Wait()
	require.False(t, t.Failed())
	return c
}

// window is the stream of the budget of a registry.
func (c *cluster) window(t *testing.T, registry string) *jetstream.StreamInfo {
	t.Helper()
	var window *jetstream.StreamInfo
	for info := range c.brokers[0].JS.ListStreams(t.Context()).Info() {
		if info.Config.Metadata["registry"] == registry {
			window = info
		}
	}
	require.NotNil(t, window)
	require.Equal(t, len(c.Nodes), window.Config.Replicas)
	return window
}

// limit sets a limit and makes its window.
func (c *cluster) limit(t *testing.T, registry string, limit budget.Limit) {
	t.Helper()
	require.NoError(t, c.stores[0].SetLimits(t.Context(), registry, map[string]budget.Limit{registry: limit}))
	token, err := c.stores[0].Take(t.Context(), "", registry, "")
	require.NoError(t, err)
	require.NoError(t, token.GiveBack(t.Context()))
	for _, s := range c.stores {
		require.NoError(t, s.CatchUp(t.Context()))
		got, _ := s.Limit(registry, "")
		require.Equal(t, limit, got)
	}
}

func TestCluster(t *testing.T) {
	c := newCluster(t)
	t.Run("a limit and a closure count everywhere at once", c.toldEverywhere)
	t.Run("failures are counted once", c.failures)
	t.Run("the budget is never overspent", c.neverOverspent)
	t.Run("tokens and schedules outlive their leader", c.outliveLeader)
}

// neverOverspent takes many tokens while the leader changes and a node is stopped.
func (c *cluster) neverOverspent(t *testing.T) {
	const takers, limit = 48, 400
	c.limit(t, registry, budget.Limit{Requests: limit, Window: time.Hour})
	window := c.window(t, registry).Config.Name
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var granted, refused, troubles atomic.Int64
	var workers sync.WaitGroup
	for i := range takers {
		workers.Go(func() {
			for ctx.Err() == nil && refused.Load() < takers {
				_, err := c.stores[i%len(c.stores)].Take(ctx, "", registry, "")
				switch {
				case err == nil:
					granted.Add(1)
				case errors.As(err, new(*budget.SpentError)):
					refused.Add(1)
				default:
					troubles.Add(1)
				}
			}
		})
	}
	reaches := func(n int64) {
		t.Helper()
		require.Eventually(t, func() bool { return granted.Load() >= n }, patience, time.Millisecond)
	}
	for n := range 3 {
		reaches(int64(1 + n*limit/10))
		c.StepDown(window)
	}
	reaches(limit / 2)
	lost := c.Leader(window)
	lost.Stop()
	defer lost.Restart()
	reaches(limit * 6 / 10)
	workers.Wait()
	info := c.window(t, registry)
	require.EqualValues(t, limit, info.State.Msgs, "all of it is spent")
	require.LessOrEqual(t, granted.Load(), int64(limit))
	t.Logf("%d granted, %d refused, %d without an answer", granted.Load(), refused.Load(), troubles.Load())
}

func (c *cluster) toldEverywhere(t *testing.T) {
	for n := range 20 {
		from, to := c.stores[n%3], c.stores[(n+1)%3]
		limit := budget.Limit{Requests: n + 1, Window: time.Hour}
		require.NoError(t, from.SetLimits(t.Context(), mirrorName, map[string]budget.Limit{"limited.example": limit}))
		require.NoError(t, to.CatchUp(t.Context()))
		got, _ := to.Limit("limited.example", "")
		require.Equal(t, limit, got)
	}
	call := budget.Call{Registry: "closed.example", Kind: budget.Pull, Started: time.Now()}
	var refused sync.WaitGroup
	for _, s := range c.stores { // at the same time: one closes the registry, and all others see it closed
		refused.Go(func() {
			if err := s.Refused(t.Context(), call, time.Hour, "no"); err != nil {
				t.Error(err)
			}
		})
	}
	refused.Wait()
	for _, s := range c.stores {
		require.NoError(t, s.CatchUp(t.Context()))
		_, _, closed := s.Closed("closed.example")
		require.True(t, closed)
	}
}

// failures has several clients add to one record and subtract from it, while its leader changes.
func (c *cluster) failures(t *testing.T) {
	const each = 12
	var writers sync.WaitGroup
	for i, b := range c.brokers {
		writers.Go(func() {
			store := failure.NewStore(b, slog.New(slog.DiscardHandler))
			for n := range each {
				record := failure.Record{Repository: registry + "/app", Registry: registry, Chunk: 1, Run: "r", Images: []failure.Image{
					{Source: fmt.Sprintf("%s/app:%d-%d", registry, i, n), Reason: "no"},
					{Source: fmt.Sprintf("%s/app:%d-%d-mirrored", registry, i, n), Reason: "no"},
				}}
				again(t, func() error { return store.Add(t.Context(), mirrorName, record) })
				again(t, func() error {
					_, err := store.Subtract(t.Context(), mirrorName, registry, registry+"/app", func(source string) bool {
						return source == record.Images[1].Source
					})
					return err
				})
			}
		})
	}
	c.StepDown(broker.StreamName)
	writers.Wait()
	records, err := failure.NewStore(c.brokers[0], slog.New(slog.DiscardHandler)).List(t.Context(), mirrorName)
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Len(t, records[0].Images, each*len(c.brokers))
}

// again repeats an operation until it succeeds, as workers do while a stream has no leader.
func again(t *testing.T, do func() error) {
	for {
		err := do()
		if err == nil {
			return
		}
		if t.Context().Err() != nil {
			t.Error(err)
			return
		}
	}
}

// outliveLeader stops the leader of a window and of the stream. Tokens still expire in time, and
// schedules are fired.
func (c *cluster) outliveLeader(t *testing.T) {
	const other, chunks = "aging.example", 1500
	limit := budget.Limit{Requests: 5, Window: 4 * time.Second}
	c.limit(t, other, limit)
	var msgs []*nats.Msg
	due := time.Now().Add(3 * time.Second)
	for i := range chunks {
		msgs = append(msgs, broker.Scheduled(subject.Plan, subject.NewAddress(mirrorName, "run", registry, fmt.Sprint(i)), due, nil))
	}
	_, err := c.brokers[0].PublishAll(t.Context(), msgs)
	require.NoError(t, err)
	first := c.stores[0].Now()
	for range limit.Requests {
		_, err := c.stores[0].Take(t.Context(), "", other, "")
		require.NoError(t, err)
	}
	lost := c.Leader(c.window(t, other).Config.Name)
	if c.Leader(broker.StreamName) != lost {
		c.StepDown(broker.StreamName)
	}
	lost.Stop()
	defer lost.Restart()

	require.Eventually(t, func() bool {
		_, err := c.stores[1].Take(t.Context(), "", other, "")
		return err == nil
	}, patience, tick)
	require.Greater(t, c.stores[1].Now().Sub(first), limit.Window)
	waiting := func(root string) int {
		info, err := c.brokers[1].Stream.Info(t.Context(), jetstream.WithSubjectFilter(root+".>"))
		if err != nil {
			return -1
		}
		return len(info.State.Subjects)
	}
	require.Eventually(t, func() bool { return waiting(subject.Chunk) == chunks && waiting(subject.Plan) == 0 }, patience, tick)
	batch, err := c.brokers[1].Consumer.Fetch(1)
	require.NoError(t, err)
	for m := range batch.Messages() {
		require.NoError(t, m.DoubleAck(t.Context()))
	}
	require.Eventually(t, func() bool { return waiting(subject.Chunk) == chunks-1 }, patience, tick)
}
