package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/subject"
)

// ErrFull is returned if the broker has no space left to store anything. It still has
// what it has acknowledged.
var ErrFull = exit.Full.New("the broker's disk is full")

// Error codes of nats-server for a limit of storage that is reached, of the server
// (max_file_store) or of the account, and texts of other errors for a disk that is full.
const (
	codeAccountFull = 10002 // JSAccountResourcesExceededErr
	codeServerFull  = 10023 // JSInsufficientResourcesErr
	codeStorageFull = 10047 // JSStorageResourcesExceededErr

	textNoSpace       = "no space left on device"
	textQuotaExceeded = "disk quota exceeded"
	textNoStore       = "error creating store" // of a stream or a consumer, for any reason
)

// Explain returns err as ErrFull, with what to do, if it comes from a full disk.
func (b *Broker) Explain(err error) error { return Explain(err, b.dataDir) }

// Explain returns err as ErrFull, with what to do, if it comes from a full disk. dataDir is
// that of an embedded broker, and empty for any other.
func Explain(err error, dataDir string) error {
	why, todo := "", "free some space, then restart nats-server, which stores nothing until then"
	if dataDir != "" {
		why, todo = " (DATA_DIR="+dataDir+")", "free some space, then run the command again"
	}
	if err == nil || errors.Is(err, errExplained) {
		return err
	}
	switch {
	case slices.Contains([]jetstream.ErrorCode{codeAccountFull, codeServerFull, codeStorageFull}, code(err)):
		why, todo = ", or a limit of its storage is reached", "free some space, or raise the limit (max_file_store, or that of the account)"
	case strings.Contains(err.Error(), textNoStore):
		why = " or not writable" + why
	case errors.Is(err, errNoRoom), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT),
		strings.Contains(err.Error(), textNoSpace), strings.Contains(err.Error(), textQuotaExceeded):
	default:
		return err
	}
	return explained{fmt.Errorf("%w%s: %s: %w", ErrFull, why, todo, err)}
}

// errNoRoom is the reason of a batch that the server refuses without a reason.
var errNoRoom = errors.New("no space for a batch of messages")

// Full reports whether Explain would return ErrFull.
func Full(err error) bool { return errors.Is(Explain(err, ""), ErrFull) }

// errExplained marks what Explain has explained.
var errExplained = errors.New("explained")

type explained struct{ error }

func (e explained) Unwrap() error        { return e.error }
func (e explained) Is(target error) bool { return target == errExplained }

// probeTimeout bounds the check of one stream.
const probeTimeout = 5 * time.Second

// Writable returns ErrFull if a stream that this process needs stores nothing because the
// disk was full, and another error if the check fails. It changes nothing.
func (b *Broker) Writable(ctx context.Context) error {
	b.owning.Lock()
	streams := slices.AppendSeq([]string{StreamName}, maps.Keys(b.owned))
	b.owning.Unlock()
	for _, stream := range streams {
		if err := b.writable(ctx, stream); err != nil {
			return b.Explain(fmt.Errorf("stream %s: %w", stream, err))
		}
	}
	return nil
}

// writable asks the stream for a purge of nothing. A stream that once failed to write
// refuses every change with the reason until the server is restarted; it does not answer
// messages, though.
func (b *Broker) writable(ctx context.Context, stream string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	s, err := b.JS.Stream(ctx, stream)
	if err == nil {
		err = s.Purge(ctx, jetstream.WithPurgeSubject(subject.Nothing))
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return err
}

// Unstored adds the reason to the error of a message or an entry that the stream did not
// answer, if its disk was full. Full and Explain recognise it.
func (b *Broker) Unstored(ctx context.Context, stream string, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) || !b.Conn.IsConnected() {
		return err
	}
	if why := b.writable(context.WithoutCancel(ctx), stream); Full(why) {
		return fmt.Errorf("%w: %w", why, err)
	}
	return err
}
