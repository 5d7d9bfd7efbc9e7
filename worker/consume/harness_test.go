package consume

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/deletion"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/metrics"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

const (
	repository  = "osism/tool"
	destination = "mirror/" + repository
	name        = "default"
	runID       = "20260101-000000-000-0000"
	// deadline limits what takes milliseconds on an idle machine, or a second if it waits
	// for a broker.
	deadline = 50 * time.Second
	often    = 20 * time.Millisecond
)

var (
	gets  = registrytest.Kinds(registrytest.KindManifestGet)
	heads = registrytest.Kinds(registrytest.KindManifestHead)
	blobs = registrytest.Kinds(registrytest.KindBlobGet)
)

// harness is a broker, two registries, and workers that are started on demand.
type harness struct {
	*broker.Broker
	from, to *registrytest.Registry
	runs     *run.Store
	log      *slog.Logger
}

func newHarness(t *testing.T, b *broker.Broker) *harness {
	t.Helper()
	runs, err := run.Open(t.Context(), b)
	require.NoError(t, err)
	return &harness{Broker: b, from: registrytest.New(t), to: registrytest.New(t), runs: runs, log: slog.New(slog.DiscardHandler)}
}

// consumer returns a consumer that does not run yet.
func (b *harness) consumer(t *testing.T) *Consumer {
	t.Helper()
	insecure := []string{b.from.Host(), b.to.Host()}
	client := registry.NewClient(registry.Options{Insecure: insecure})
	notes, err := OpenNotes(t.Context(), b.Broker, b.log)
	require.NoError(t, err)
	failures := OpenFailures(b.Broker, b.log)
	resolver := &resolve.Upstream{Registry: client, Listing: listing.New(listing.Options{Registry: client})}
	copier := mirrortest.New(t, client, &skopeo.Runner{Insecure: insecure})
	copier.Indexes = notes
	worker, err := chunk.New(chunk.Parts{
		Connect: func(context.Context, message.Chunk) (resolve.Resolver, *mirror.Mirror, error) {
			return resolver, copier, nil
		},
		Failures:    failures,
		Notes:       notes,
		Registries:  outage{},
		Concurrency: 2,
		MaxAttempts: 3,
		Alone:       b.Embedded(),
		Backoff:     func(int) time.Duration { return 0 },
		Deletions:   deletion.NewHosts(nil, nil),
		Log:         b.log,
	})
	require.NoError(t, err)
	c, err := New(t.Context(), b.Broker, worker, failures, metrics.New("test"), b.log)
	require.NoError(t, err)
	return c
}

// start runs a consumer until stop is called, which waits for its end, or until the test
// ends.
func start(t *testing.T, c *Consumer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stopped := false
	stop = func() {
		t.Helper()
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(t, <-ended)
	}
	t.Cleanup(stop)
	return stop
}

// counted returns how many chunks or images with this outcome a worker has counted.
func counted(t *testing.T, c *Consumer, metric, outcome string) (n int) {
	t.Helper()
	families, err := c.metrics.Registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == metric && m.GetLabel()[0].GetValue() == outcome {
				n += int(m.GetCounter().GetValue())
			}
		}
	}
	return n
}

const (
	countedChunks = "skopeo_worker_chunks_total"
	countedImages = "skopeo_worker_images_total"
)

func (b *harness) push(t *testing.T, tags ...string) {
	t.Helper()
	for _, tag := range tags {
		_, err := b.from.PushImage(repository, tag, registrytest.Image{Version: tag})
		require.NoError(t, err)
	}
}

func (b *harness) chunk(images ...message.Image) message.Chunk {
	return message.Chunk{Name: name, Run: runID, Number: 1, Registry: b.from.Host(), Repositories: []message.Repository{{
		Source: reference.MustRepository(b.from.Host() + "/" + repository), Destination: reference.MustRepository(b.to.Host() + "/" + destination), Images: images,
	}}}
}

func (b *harness) address(token string) subject.Address {
	return subject.NewAddress(name, runID, b.from.Host(), token)
}

// plan publishes a run of one chunk, due now, and returns its tracker.
func (b *harness) plan(t *testing.T, c message.Chunk) *run.Tracker {
	t.Helper()
	data, err := c.Encode()
	require.NoError(t, err)
	now := time.Now().UTC()
	require.NoError(t, b.runs.Put(t.Context(), run.Run{Name: name, ID: runID, Kind: run.KindPlan, Chunks: 1, Entries: 1,
		Started: now, FirstDue: now, Published: true}))
	b.send(t, b.address("000001").Under(subject.Chunk), data)
	tracker, err := b.runs.Track(t.Context(), name, runID)
	require.NoError(t, err)
	return tracker
}

func (b *harness) send(t *testing.T, subj string, data []byte) {
	t.Helper()
	m := nats.NewMsg(subj)
	m.Data = data
	_, err := b.Publish(t.Context(), m)
	require.NoError(t, err)
}

// over waits for the end of the run, and for numbers that add up.
func over(t *testing.T, tracker *run.Tracker) run.Status {
	t.Helper()
	var st run.Status
	require.Eventually(t, func() bool {
		var err error
		st, err = tracker.Status(t.Context())
		return err == nil && st.Over() && st.Images.Total == st.Images.Ended()
	}, deadline, often)
	return st
}

// subjects returns the subjects of the stream's messages that match a filter.
func (b *harness) subjects(t *testing.T, filter string) []string {
	t.Helper()
	info, err := b.Stream.Info(t.Context(), jetstream.WithSubjectFilter(filter))
	require.NoError(t, err)
	var found []string
	for s := range info.State.Subjects {
		found = append(found, s)
	}
	return found
}

func (b *harness) failures(t *testing.T) []failure.Record {
	t.Helper()
	records, err := failure.NewStore(b.Broker, slog.New(slog.DiscardHandler)).List(t.Context(), name)
	require.NoError(t, err)
	return records
}

// receive takes one delivery and does not work it off.
func (b *harness) receive(t *testing.T) jetstream.Msg {
	t.Helper()
	m, err := b.Consumer.Next(jetstream.FetchMaxWait(deadline))
	require.NoError(t, err)
	return m
}

// receiveTwice publishes a chunk of one tag, and returns two deliveries of it.
func (b *harness) receiveTwice(t *testing.T) (first, second jetstream.Msg) {
	t.Helper()
	impatient(t, b.Broker, 50*time.Millisecond)
	b.push(t, "1")
	b.plan(t, b.chunk())
	return b.receive(t), b.receive(t)
}

// copying starts a worker that copies one image at a time, with a chunk of these tags. It returns
// when the first copy waits at the source. stop stops the worker, lets the copy end, and waits for
// the end of the worker.
func (b *harness) copying(t *testing.T, tags ...string) (c *Consumer, tracker *run.Tracker, stop func()) {
	t.Helper()
	b.push(t, tags...)
	gate := make(chan struct{})
	t.Cleanup(b.from.Inject(registrytest.Fault{Match: blobs, Gate: gate}))
	begun := b.from.Notify(blobs)
	c = b.consumer(t)
	c.worker.Concurrency = 1
	tracker = b.plan(t, b.chunk())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	<-begun
	return c, tracker, func() {
		t.Helper()
		cancel()
		close(gate)
		require.NoError(t, <-ended)
	}
}

// mirrored requires that the tags are the same at the destination as at the source.
func (b *harness) mirrored(t *testing.T, tags ...string) {
	t.Helper()
	for _, tag := range tags {
		want, err := b.from.Digest(repository, tag)
		require.NoError(t, err)
		got, err := b.to.Digest(destination, tag)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

// impatient creates the consumer of the workers with a short AckWait.
func impatient(t *testing.T, b *broker.Broker, wait time.Duration) {
	t.Helper()
	require.NoError(t, b.Stream.DeleteConsumer(t.Context(), broker.ConsumerName))
	c, err := b.Stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{
		Durable: broker.ConsumerName, FilterSubject: subject.Chunk + ".>", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: wait, MaxDeliver: -1, MaxAckPending: -1,
	})
	require.NoError(t, err)
	b.Consumer = c
}

func embedded(t *testing.T) *harness {
	t.Helper()
	return newHarness(t, brokertest.Embedded(t))
}

// notifying returns a logger that sends when the disk of the broker is full.
func notifying(refused chan<- struct{}) *slog.Logger { return slog.New(notifier{refused}) }

type notifier struct{ refused chan<- struct{} }

func (n notifier) Enabled(context.Context, slog.Level) bool { return true }
func (n notifier) WithAttrs([]slog.Attr) slog.Handler       { return n }
func (n notifier) WithGroup(string) slog.Handler            { return n }
func (n notifier) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "the broker's disk is full") {
		select {
		case n.refused <- struct{}{}:
		default:
		}
	}
	return nil
}
