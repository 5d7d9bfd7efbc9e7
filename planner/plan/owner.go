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

// nameBucket holds who each mirror name belongs to.
const nameBucket = "mirror_names"

// ErrNameTaken is returned where a mirror name belongs to another list or another
// destination.
var ErrNameTaken = exit.Usage.New("the mirror name is taken")

// Owner is what a mirror name belongs to.
type Owner struct {
	Source      string `json:"source"` // without secrets
	Destination string `json:"destination"`
}

// Claim makes the name the owner's. Another owner's is only taken by force: two
// lists under one name would each undo the other's plan.
func Claim(ctx context.Context, b *broker.Broker, name string, owner Owner, force bool) error {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: nameBucket, Description: "skopeo-worker: lists and destinations of mirror names"})
	if err != nil {
		return err
	}
	data, err := json.Marshal(owner)
	if err != nil {
		return err
	}
	if force {
		_, err = kv.Put(ctx, name, data)
		return err
	}
	_, err = kv.Create(ctx, name, data)
	if !errors.Is(err, jetstream.ErrKeyExists) {
		return err
	}
	entry, err := kv.Get(ctx, name)
	if err != nil {
		return fmt.Errorf("read the list and destination of the name %s: %w", name, err)
	}
	var have Owner
	if json.Unmarshal(entry.Value(), &have) != nil || have == (Owner{}) {
		return fmt.Errorf("%w: the broker's entry for MIRROR_NAME=%s cannot be read: %s: set another MIRROR_NAME, or pass --force to make it mirror %s to %s",
			ErrNameTaken, name, message.Excerpt(entry.Value()), owner.Source, owner.Destination)
	}
	if have != owner {
		return fmt.Errorf("%w: MIRROR_NAME=%s mirrors %s to %s: set another MIRROR_NAME, or pass --force to make it mirror %s to %s",
			ErrNameTaken, name, have.Source, have.Destination, owner.Source, owner.Destination)
	}
	return nil
}
