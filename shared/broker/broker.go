// Package broker connects to NATS JetStream, or runs it in this process, and maintains the
// stream and the consumer of the mirror.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/exit"
)

var (
	// ErrUnreachable is returned if no broker answers.
	ErrUnreachable = exit.Unreachable.New("the broker cannot be reached")
	// ErrNoFolder is returned if the store in DATA_DIR cannot be made or opened.
	ErrNoFolder = exit.Unreachable.New("DATA_DIR cannot be used")
	// ErrCredentials is returned if the broker refuses the credentials.
	ErrCredentials = exit.Unreachable.New("the broker refuses the credentials")
	// ErrNoJetStream is returned if the broker, or the account, has no JetStream.
	ErrNoJetStream = exit.Unreachable.New("the broker has no JetStream")
	// ErrTooOld is returned for a server of a version that is too old.
	ErrTooOld = exit.Unreachable.New("the broker is too old")
	// ErrTooFew is returned if fewer servers of the broker than NATS_REPLICAS can keep a stream.
	ErrTooFew = exit.Unreachable.New("the broker has too few servers for the replicas")
	// ErrForeignStream is returned if the stream has a configuration that it must not have.
	ErrForeignStream = exit.Unreachable.New("the stream cannot be used")
	// ErrInUse is returned if another process has the folder of the embedded broker.
	ErrInUse = exit.Unreachable.New("already in use")
)

const (
	// dialTimeout bounds one attempt to connect.
	dialTimeout = 5 * time.Second
	// requestTimeout bounds one JetStream request; a clustered server may be
	// electing a leader, which takes up to 4 s by default.
	requestTimeout = 10 * time.Second
	// retryInterval is the pause between attempts to connect.
	retryInterval = time.Second
	// reconnectWait is the pause between attempts to reconnect to one server.
	reconnectWait = time.Second
	// pingInterval is the time between pings. A connection is given up after two of them
	// without an answer, as one that is half open.
	pingInterval = 15 * time.Second
)

// Options are those of a connection.
type Options struct {
	Client string // the connection's name, as `nats server report connections` shows it
	// Patience is how long a broker that does not answer is tried again; 0: as
	// long as the context lives.
	Patience time.Duration
	Log      *slog.Logger

	// Share lets other processes of the same user use the embedded broker of this one
	// while it runs, through a socket in DATA_DIR.
	Share bool
	// Join uses the embedded broker of another process if that process has DATA_DIR and
	// shares it.
	Join bool
}

// Broker is a connection to JetStream with the stream and the consumer in place.
type Broker struct {
	Conn     *nats.Conn
	JS       jetstream.JetStream
	js       jetstream.JetStream // JS without its bounds and waits
	Stream   jetstream.Stream
	Consumer jetstream.Consumer
	Replicas int

	log      *slog.Logger
	dataDir  string // of the embedded one, in this process or in another one
	versions versions
	embedded *embedded // nil: it runs in another process

	// When the stream and the consumer were created, as this process knows them.
	streamCreated, consumerCreated atomic.Int64

	owning sync.Mutex
	owned  map[string]maker // by stream
}

// Open connects to the broker, or starts the embedded one, and makes sure of
// stream and consumer.
func Open(ctx context.Context, c Config, o Options) (*Broker, error) {
	b := &Broker{Replicas: c.Replicas, log: o.Log, versions: versions{log: o.Log}, owned: map[string]maker{}}
	var err error
	if c.Embedded() {
		err = b.embed(ctx, c, o)
	} else {
		err = b.reach(ctx, c, o)
	}
	if err != nil {
		b.Close()
		return nil, b.Explain(err)
	}
	return b, nil
}

// embed starts a broker in this process, or joins that of another one.
func (b *Broker) embed(ctx context.Context, c Config, o Options) error {
	b.Replicas, b.dataDir = 1, c.DataDir
	var err error
	if b.embedded, err = startEmbedded(c.DataDir, o); err != nil {
		if o.Join && errors.Is(err, ErrInUse) {
			return b.join(ctx, c, o, err)
		}
		return err
	}
	if b.Conn, err = nats.Connect("", append(options(o), nats.InProcessServer(b.embedded.server))...); err != nil {
		return fmt.Errorf("%w: the embedded broker in DATA_DIR=%s: %w", ErrUnreachable, c.DataDir, err)
	}
	return b.prepare(ctx)
}

// reach connects to a broker, and waits for one that does not answer yet: it may
// be starting, or its cluster without a leader.
func (b *Broker) reach(ctx context.Context, c Config, o Options) error {
	credentials, err := clientOptions(c)
	if err != nil {
		return err
	}
	opts := append(options(o), credentials...)
	waiting := false
	for start := time.Now(); ; {
		if b.Conn == nil {
			if b.Conn, err = nats.Connect(c.URL, opts...); err != nil {
				b.Conn, err = nil, explain(c.shown(), err)
			} else {
				err = b.versions.others(ctx, b.Conn, c.userinfo(), credentials)
			}
		}
		if err == nil {
			err = b.prepare(ctx)
		}
		if !errors.Is(err, ErrUnreachable) || o.Patience > 0 && time.Since(start) >= o.Patience {
			return err
		}
		if !waiting {
			o.Log.Warn("waiting for the broker", "error", b.Explain(err))
			waiting = true
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-time.After(retryInterval):
			err = nil
		}
	}
}

func (b *Broker) prepare(ctx context.Context) error {
	err := b.versions.connected(b.Conn)
	if err != nil {
		return err
	}
	js, err := jetstream.New(b.Conn, jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		return fmt.Errorf("opening JetStream: %w", err)
	}
	b.JS, b.js = requests{js}, js
	if err = checkJetStream(ctx, b.JS); err != nil {
		return err
	}
	err = Answered(ctx, func() error {
		b.Stream, b.Consumer, err = b.ensure(ctx)
		return err
	})
	if err == nil {
		b.streamCreated.Store(b.Stream.CachedInfo().Created.UnixNano())
		b.consumerCreated.Store(b.Consumer.CachedInfo().Created.UnixNano())
	}
	return err
}

// ensure makes sure of stream and consumer, and checks the server that leads the stream.
func (b *Broker) ensure(ctx context.Context) (jetstream.Stream, jetstream.Consumer, error) {
	ackWait := AckWait
	if b.dataDir != "" {
		ackWait = embeddedAckWait
	}
	stream, err := ensureStream(ctx, b.JS, b.Replicas)
	if err == nil {
		err = b.versions.leader(stream.CachedInfo())
	}
	if err != nil {
		return nil, nil, err
	}
	consumer, err := ensureConsumer(ctx, stream, ackWait)
	return stream, consumer, err
}

// Embedded reports whether the broker runs in this process, which then has the only worker.
func (b *Broker) Embedded() bool { return b.embedded != nil }

// Close ends the connection, and the embedded broker with it.
func (b *Broker) Close() {
	if b.Conn != nil {
		b.Conn.Close()
	}
	if b.Embedded() {
		b.embedded.stop()
	}
}

func checkJetStream(ctx context.Context, js jetstream.JetStream) error {
	_, err := js.AccountInfo(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: start nats-server with -js, and enable it for this account: %w", ErrNoJetStream, err)
	}
	return fmt.Errorf("%w: asking for JetStream: %w", ErrUnreachable, err)
}
