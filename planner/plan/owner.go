package plan

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/message"
)

// nameBucket holds the list and destination of each mirror name.
const nameBucket = "mirror_names"

// ErrNameTaken is returned if a mirror name belongs to another list or destination.
var ErrNameTaken = exit.Usage.New("the mirror name is taken")

// Owner is the list and destination that a mirror name belongs to.
type Owner struct {
	Source      string `json:"source"` // without secrets
	Destination string `json:"destination"`
}

// Claim gives the name to the owner. It takes the name from another owner only if force is
// true: two lists under one name would each undo the other's plan.
func Claim(ctx context.Context, b *broker.Broker, name string, owner Owner, force bool) error {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: nameBucket, Description: "skopeo-worker: lists and destinations of mirror names"})
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
		var have Owner
		switch {
		case json.Unmarshal(last.Value(), &have) != nil || have == (Owner{}):
			return nil, fmt.Errorf("%w: the broker's entry for MIRROR_NAME=%s cannot be read: %s: set another MIRROR_NAME, or pass --force to make it mirror %s to %s",
				ErrNameTaken, name, message.Excerpt(last.Value()), owner.Source, owner.Destination)
		case have != owner:
			return nil, fmt.Errorf("%w: MIRROR_NAME=%s mirrors %s to %s: set another MIRROR_NAME, or pass --force to make it mirror %s to %s",
				ErrNameTaken, name, have.Source, have.Destination, owner.Source, owner.Destination)
		}
		return nil, nil
	})
	return err
}
