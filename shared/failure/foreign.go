package failure

import (
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/message"
)

// keptBytes is how many bytes of a message that is no record are in what List makes of
// it.
const keptBytes = 4 << 10

// foreign is a message among the failures that cannot be read. It stays until somebody
// forgets it.
type foreign struct {
	message *jetstream.RawStreamMsg
	why     error
}

// record shows the message as a failure of its own.
func (f foreign) record() Record {
	name := MessageName(f.message.Sequence, f.message.Subject)
	return Record{
		Repository: name,
		Registry:   UnknownRegistry,
		FailedAt:   f.message.Time.UTC(),
		Message:    f.message.Data[:min(len(f.message.Data), keptBytes)],
		Unreadable: true,
		Images: []Image{{
			Source: name, Reason: fmt.Sprintf("this is not a failure record (%v): %s", f.why, message.Excerpt(f.message.Data)),
		}},
	}
}

// UnknownRegistry stands for the registry of a message that cannot be read.
const UnknownRegistry = "unknown"

// MessageName is the name of a message that cannot be read, in place of its repository's.
func MessageName(sequence uint64, subject string) string {
	if quoted := strconv.QuoteToASCII(subject); quoted != `"`+subject+`"` {
		subject = quoted
	}
	return fmt.Sprintf("message %d on %s", sequence, subject)
}
