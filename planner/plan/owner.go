package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/message"
)

// nameBucket holds the list and the destination of each mirror name.
const nameBucket = "mirror_names"

// errNameTaken is returned if a mirror name is tied to another list or destination.
var errNameTaken = exit.Usage.New("the mirror name is taken")

// Owner is the list and the destination that a mirror name is tied to.
type Owner struct {
	Source      string `json:"source"` // without secrets
	Destination string `json:"destination"`
}

// Claim ties the name to the owner. If the name is tied to another owner, Claim returns errNameTaken
// unless force is true: each of two lists under one name would undo the plans of the other.
func Claim(ctx context.Context, b *broker.Broker, name string, owner Owner, force bool) error {
	kv, err := names(ctx, b)
	if err != nil {
		return err
	}
	data, err := json.Marshal(owner)
	if err != nil {
		return err
	}
	_, err = broker.Update(ctx, kv, name, func(last jetstream.KeyValueEntry) ([]byte, error) {
		if last == nil || force {
			return data, nil
		}
		if err := owner.isOf(name, last); err != nil {
			return nil, fmt.Errorf("%w: set another MIRROR_NAME, or pass --force to make it mirror %s to %s", err, owner.Source, owner.Destination)
		}
		return nil, nil
	})
	return err
}

// Check returns errNameTaken if the name is tied to another owner. It changes nothing.
func Check(ctx context.Context, b *broker.Broker, name string, owner Owner) error {
	kv, err := names(ctx, b)
	if err != nil {
		return err
	}
	last, err := kv.Get(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the owner of MIRROR_NAME=%s: %w", name, err)
	}
	if err := owner.isOf(name, last); err != nil {
		return fmt.Errorf("%w: set MIRROR_SOURCE_URL and MIRROR_DEST_URL to these, or set another MIRROR_NAME", err)
	}
	return nil
}

func names(ctx context.Context, b *broker.Broker) (jetstream.KeyValue, error) {
	return b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: nameBucket, Description: "skopeo-worker: lists and destinations of mirror names"})
}

// isOf returns errNameTaken if the entry has another owner.
func (o Owner) isOf(name string, e jetstream.KeyValueEntry) error {
	var have Owner
	switch {
	case json.Unmarshal(e.Value(), &have) != nil || have == (Owner{}):
		return fmt.Errorf("%w: the broker's entry for MIRROR_NAME=%s cannot be read: %s", errNameTaken, name, message.Excerpt(e.Value()))
	case have != o:
		return fmt.Errorf("%w: MIRROR_NAME=%s mirrors %s to %s", errNameTaken, name, have.Source, have.Destination)
	}
	return nil
}
