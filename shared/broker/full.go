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

	"github.com/osism/skopeo-worker/shared/subject"
)

// ErrFull is returned where the broker cannot store anything any more. Nothing that it
// has acknowledged is lost.
var ErrFull = errors.New("the broker's disk is full")

// Error codes of nats-server for storage that is used up, up to a limit of the server
// (max_file_store) or of the account. What its disk says is in the text of others.
const (
	codeAccountFull = 10002 // JSAccountResourcesExceededErr
	codeServerFull  = 10023 // JSInsufficientResourcesErr
	codeStorageFull = 10047 // JSStorageResourcesExceededErr

	textNoSpace       = "no space left on device"
	textQuotaExceeded = "disk quota exceeded"
	textNoStore       = "error creating store" // of a stream or a consumer, for whatever reason
)

// Explain returns err as ErrFull, with what to do, where that is what it says.
func (b *Broker) Explain(err error) error { return Explain(err, b.dataDir) }

// Explain is that of a broker which is embedded in dataDir, or somewhere else where
// dataDir is empty.
func Explain(err error, dataDir string) error {
	why, todo := "", "make room there, and start nats-server again: it stores nothing until then"
	if dataDir != "" {
		why, todo = " (DATA_DIR="+dataDir+")", "make room, and run the command again"
	}
	if err == nil || errors.Is(err, errExplained) {
		return err
	}
	switch {
	case slices.Contains([]jetstream.ErrorCode{codeAccountFull, codeServerFull, codeStorageFull}, code(err)):
		why, todo = ", or as much of it as the server or the account may use", "make room, or raise the limit"
	case strings.Contains(err.Error(), textNoStore):
		why = ", or cannot be written" + why
	case errors.Is(err, errNoRoom), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT),
		strings.Contains(err.Error(), textNoSpace), strings.Contains(err.Error(), textQuotaExceeded):
	default:
		return err
	}
	return explained{fmt.Errorf("%w%s: %s: %w", ErrFull, why, todo, err)}
}

// errNoRoom is what a batch is refused with where the server does not say why.
var errNoRoom = errors.New("it has no room for a batch of messages")

// Full reports whether Explain would return ErrFull.
func Full(err error) bool { return errors.Is(Explain(err, ""), ErrFull) }

// errExplained marks what Explain has explained.
var errExplained = errors.New("explained")

type explained struct{ error }

func (e explained) Unwrap() error        { return e.error }
func (e explained) Is(target error) bool { return target == errExplained }

// probeTimeout bounds the question whether a stream stores anything.
const probeTimeout = 5 * time.Second

// Writable returns ErrFull where nats-server has stopped storing messages of a stream
// that this process needs, because its disk was full, and another error where that cannot
// be found out. It changes nothing.
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

// writable asks the stream for a change that changes nothing. One that could not write
// answers each with why, until the server is started again; only to what is published it
// answers nothing at all.
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

// Unstored adds to the error of what was to be stored in a stream why there was no
// answer, where the stream says so; Full and Explain then know it.
func (b *Broker) Unstored(ctx context.Context, stream string, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) || !b.Conn.IsConnected() {
		return err
	}
	if why := b.writable(context.WithoutCancel(ctx), stream); Full(why) {
		return fmt.Errorf("%w: %w", why, err)
	}
	return err
}
