// Package broker connects to NATS JetStream, or runs it in this process, and
// keeps the one stream and the one consumer that the system lives on.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var (
	// ErrUnreachable is returned where no broker answers.
	ErrUnreachable = errors.New("the broker cannot be reached")
	// ErrCredentials is returned where the broker refuses who we are.
	ErrCredentials = errors.New("the broker refuses the credentials")
	// ErrNoJetStream is returned where the broker, or our account, has no JetStream.
	ErrNoJetStream = errors.New("the broker has no JetStream")
	// ErrTooOld is returned for a server without what the system needs.
	ErrTooOld = errors.New("the broker is too old")
	// ErrForeignStream is returned where the stream is not configured as ours must be.
	ErrForeignStream = errors.New("the stream is not ours to use")
	// ErrInUse is returned where another process has the embedded broker's folder.
	ErrInUse = errors.New("already in use")
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
	// pingInterval finds a half-open connection after two pings unanswered.
	pingInterval = 15 * time.Second
)

// Options vary between the processes that connect.
type Options struct {
	Client string // the connection's name, as `nats server report connections` shows it
	// Patience is how long a broker that does not answer is tried again; 0: as
	// long as the context lives.
	Patience time.Duration
	Log      *slog.Logger
}

// Broker is a connection to JetStream with the stream and the consumer in place.
type Broker struct {
	Conn     *nats.Conn
	JS       jetstream.JetStream
	Stream   jetstream.Stream
	Consumer jetstream.Consumer
	Replicas int

	embedded *embedded
}

// Open connects to the broker, or starts the embedded one, and makes sure of
// stream and consumer.
func Open(ctx context.Context, c Config, o Options) (*Broker, error) {
	b := &Broker{Replicas: c.Replicas}
	var err error
	if c.Embedded() {
		b.Replicas = 1
		if b.embedded, err = startEmbedded(c.DataDir); err != nil {
			return nil, err
		}
		b.Conn, err = nats.Connect("", append(options(o), nats.InProcessServer(b.embedded.server))...)
	} else {
		b.Conn, err = connect(ctx, c, o)
	}
	if err == nil {
		err = b.prepare(ctx)
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *Broker) prepare(ctx context.Context) error {
	var err error
	if err = checkVersion(b.Conn.ConnectedServerVersion()); err != nil {
		return err
	}
	if b.JS, err = jetstream.New(b.Conn, jetstream.WithDefaultTimeout(requestTimeout)); err != nil {
		return fmt.Errorf("opening JetStream: %w", err)
	}
	if err = checkJetStream(ctx, b.JS); err != nil {
		return err
	}
	if b.Stream, err = ensureStream(ctx, b.JS, b.Replicas); err != nil {
		return err
	}
	b.Consumer, err = ensureConsumer(ctx, b.Stream)
	return err
}

// Close ends the connection, and the embedded broker with it.
func (b *Broker) Close() {
	if b.Conn != nil {
		b.Conn.Close()
	}
	if b.embedded != nil {
		b.embedded.stop()
	}
}

func connect(ctx context.Context, c Config, o Options) (*nats.Conn, error) {
	opts, err := clientOptions(c)
	if err != nil {
		return nil, err
	}
	opts = append(options(o), opts...)
	for start := time.Now(); ; {
		conn, err := nats.Connect(c.URL, opts...)
		if err == nil {
			return conn, nil
		}
		err = explain(c.redacted(), err)
		if !errors.Is(err, ErrUnreachable) || o.Patience > 0 && time.Since(start) >= o.Patience {
			return nil, err
		}
		o.Log.Warn("waiting for the broker", "error", err)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-time.After(retryInterval):
		}
	}
}

// explain turns nats.go's error into one that says which variable to look at.
func explain(server string, err error) error {
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Errorf("%w at %s: see NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, NATS_TOKEN: %w", ErrCredentials, server, err)
	case errors.Is(err, nats.ErrSecureConnRequired), errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("%w at %s: see NATS_CA, NATS_CERT and NATS_KEY: %w", ErrCredentials, server, err)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	return fmt.Errorf("%w at %s (NATS_URL): %w", ErrUnreachable, server, err)
}

func clientOptions(c Config) ([]nats.Option, error) {
	var opts []nats.Option
	if c.Creds != "" {
		opts = append(opts, nats.UserCredentials(c.Creds))
	}
	if c.NKey != "" {
		o, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, fmt.Errorf("%w: NATS_NKEY: %w", ErrCredentials, err)
		}
		opts = append(opts, o)
	}
	if c.User != "" {
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	}
	if c.Token != "" {
		opts = append(opts, nats.Token(c.Token))
	}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	if c.Cert != "" {
		opts = append(opts, nats.ClientCert(c.Cert, c.Key))
	}
	return opts, nil
}

func options(o Options) []nats.Option {
	return []nats.Option{
		nats.Name(o.Client),
		nats.Timeout(dialTimeout),
		nats.PingInterval(pingInterval),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		// Rotated credentials must not end a worker for good.
		nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				o.Log.Warn("lost the broker, reconnecting", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { o.Log.Info("the broker is back") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			o.Log.Debug("broker", "error", err)
		}),
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
