package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/subject"
)

// unanswered is how long a request may take: long enough for a broker that answers.
const unanswered = 2 * time.Second

// TestFullDisk: if the disk is full, writes fail with the same error, whether nats-server answers
// with an error or not at all. They succeed again once the server is restarted with room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	const inDisk = "the broker's disk is full: free some space, then restart nats-server, which stores nothing until then: "
	disk := brokertest.NewSmall(t)
	s := brokertest.Start(t, func(o *server.Options) { o.StoreDir = disk.Path })
	b := brokertest.Open(t, s.Config())
	kv, err := b.Bucket(t.Context(), jetstream.KeyValueConfig{Bucket: "bucket"})
	require.NoError(t, err)
	disk.Fill()
	large := bytes.Repeat([]byte{'x'}, 64<<10)
	message := func(n int) *nats.Msg {
		m := nats.NewMsg(subject.NewAddress("name", "run", "registry", fmt.Sprint(n)).Under(subject.Plan))
		m.Data = large
		return m
	}
	for what, store := range map[string]func(context.Context) error{
		"one message": func(ctx context.Context) error { _, err := b.Publish(ctx, message(1)); return err },
		"a batch": func(ctx context.Context) error {
			_, err := b.PublishAll(ctx, []*nats.Msg{message(2), message(3)})
			return err
		},
		"an entry":    func(ctx context.Context) error { _, err := kv.Put(ctx, "key", large); return err },
		"a new entry": func(ctx context.Context) error { _, err := kv.Create(ctx, "new", large); return err },
		"the first one": func(ctx context.Context) error {
			_, err := kv.Update(ctx, "first", large, 0)
			return err
		},
		"a bucket": func(ctx context.Context) error {
			_, err := b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: "another"})
			return err
		},
	} {
		// nats-server does not answer if it cannot store the message.
		ctx, cancel := context.WithTimeout(t.Context(), unanswered)
		err := b.Explain(store(ctx))
		cancel()
		require.ErrorIs(t, err, broker.ErrFull, what)
		require.True(t, strings.Contains(err.Error(), inDisk) || what == "a bucket", "%s: %v", what, err)
		require.Equal(t, 1, strings.Count(err.Error(), "disk is full"), "%s: %v", what, err)
	}
	require.ErrorIs(t, b.Writable(t.Context()), broker.ErrFull)
	disk.Free()
	s.Restart()
	require.Eventually(t, func() bool { return b.Writable(t.Context()) == nil }, patience, 10*time.Millisecond)
	_, err = b.PublishAll(t.Context(), []*nats.Msg{message(2), message(3)})
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), "key", large)
	require.NoError(t, err)
}

// TestKeepSeesAFullDisk: Keep notices a full disk, even if this process stores nothing.
func TestKeepSeesAFullDisk(t *testing.T) {
	t.Parallel()
	disk := brokertest.NewSmall(t)
	s := brokertest.Start(t, func(o *server.Options) { o.StoreDir = disk.Path })
	var said log
	b, err := broker.Open(t.Context(), s.Config(), broker.Options{Client: t.Name(), Log: slog.New(slog.NewTextHandler(&said, nil))})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	disk.Fill()
	_, err = b.Publish(t.Context(), &nats.Msg{Subject: subject.Failed + ".x", Data: make([]byte, 64<<10)})
	require.True(t, broker.Full(err), err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Keep(ctx) }()
	require.Eventually(t, func() bool { return strings.Contains(said.String(), "the broker's disk is full") }, patience, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}

func TestOpenOnAFullDisk(t *testing.T) {
	disk := brokertest.NewSmall(t)
	disk.Fill()
	dir := filepath.Join(disk.Path, "data")
	err := fails(t, broker.Config{DataDir: dir})
	require.ErrorIs(t, err, broker.ErrFull)
	require.ErrorContains(t, err, "the broker's disk is full or not writable (DATA_DIR="+dir+"): free some space, then run the command again")
}

func TestExplain(t *testing.T) {
	for text, err := range map[string]error{
		"the broker's disk is full: free some space, then restart nats-server, which stores nothing until then: x: no space left on device":                                                                                          fmt.Errorf("x: %w", syscall.ENOSPC),
		"the broker's disk is full: free some space, then restart nats-server, which stores nothing until then: disk quota exceeded":                                                                                                 syscall.EDQUOT,
		"the broker's disk is full, or a limit of its storage is reached: free some space, or raise the limit (max_file_store, or that of the account): nats: API error: code=503 err_code=10023 description=insufficient resources": &jetstream.APIError{Code: 503, ErrorCode: 10023, Description: "insufficient resources"},
	} {
		explained := broker.Explain(err, "")
		require.ErrorIs(t, explained, broker.ErrFull)
		require.ErrorIs(t, explained, err)
		require.EqualError(t, explained, text)
		require.Equal(t, explained, broker.Explain(explained, "elsewhere"), "once")
	}
	for _, err := range []error{nil, errors.New("other"), &jetstream.APIError{ErrorCode: 10077, Description: "maximum messages exceeded"}} {
		require.Equal(t, err, broker.Explain(err, ""))
	}
}

// log can be read while it is written.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
