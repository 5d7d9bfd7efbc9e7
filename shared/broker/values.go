package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/natsext"
)

// maxValues is how many entries one request for several asks for; nats-server answers no request
// for more than 1,024 (getDirectMulti).
const maxValues = 512

// headerPending is how many messages are left out of an answer.
const headerPending = "Nats-Num-Pending"

// Values returns the entries of a bucket that have one of the keys, by key. It sends one request to
// an embedded broker. In a cluster, any replica would answer that request, and may lag behind, so
// Values asks the leader for each key.
func (b *Broker) Values(ctx context.Context, bucket string, keys []string) (map[string]jetstream.KeyValueEntry, error) {
	values := make(map[string]jetstream.KeyValueEntry, len(keys))
	prefix := bucketSubjects(bucket)
	add := func(m *jetstream.RawStreamMsg) {
		if e := (entry{bucket, strings.TrimPrefix(m.Subject, prefix), m}); e.Operation() == jetstream.KeyValuePut {
			values[e.key] = e
		}
	}
	rest := keys
	if b.Embedded() {
		for part := range slices.Chunk(keys, maxValues) {
			if err := b.lastOfEach(ctx, bucketStream(bucket), prefix, part, add); err != nil {
				break // they are read one by one
			}
			rest = rest[len(part):]
		}
	}
	for _, key := range rest {
		m, err := b.Last(ctx, bucketStream(bucket), prefix+key)
		switch {
		case err == nil:
			add(m)
		case !errors.Is(err, jetstream.ErrMsgNotFound):
			return nil, fmt.Errorf("bucket %s: %w", bucket, err)
		}
	}
	return values, nil
}

// lastOfEach calls see with the last message of each subject that has one. A subject is the
// prefix and a key.
func (b *Broker) lastOfEach(ctx context.Context, stream, prefix string, keys []string, see func(*jetstream.RawStreamMsg)) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	subjects := make([]string, len(keys))
	for i, key := range keys {
		subjects[i] = prefix + key
	}
	request, err := json.Marshal(map[string]any{"multi_last": subjects, "max_bytes": batchBytes})
	if err != nil {
		return err
	}
	status, pending := "", ""
	answers, err := natsext.RequestMany(ctx, b.Conn, jetstream.DefaultAPIPrefix+"DIRECT.GET."+stream, request,
		natsext.RequestManySentinel(func(m *nats.Msg) bool {
			if m.Header.Get(jetstream.StreamHeader) == "" {
				status, pending = m.Header.Get(headerStatus), m.Header.Get(headerPending)
			}
			return status != ""
		}))
	if err != nil {
		return err
	}
	var all []*jetstream.RawStreamMsg
	for answer, err := range answers {
		var m *jetstream.RawStreamMsg
		if err == nil {
			m, err = direct(answer)
		}
		if err != nil {
			return err
		}
		m.Header = stored(answer.Header)
		all = append(all, m)
	}
	if status != statusNone && (status != statusEnd || pending != "0") {
		return fmt.Errorf("%w: its answer is not complete (status %q)", ErrUnreachable, status)
	}
	for _, m := range all {
		see(m)
	}
	return nil
}
