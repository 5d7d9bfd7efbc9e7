package failure

import (
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/message"
)

// keptBytes is how many bytes of an unreadable message List returns.
const keptBytes = 4 << 10

// foreign is a message under the failures' subjects that is not a record. It stays until
// Forget deletes it or a record on its subject is written.
type foreign struct {
	message *jetstream.RawStreamMsg
	why     error
}

// record presents the message as a record of its own.
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

// UnknownRegistry is the registry of an unreadable message.
const UnknownRegistry = "unknown"

// MessageName names an unreadable message. It stands in place of a repository's name.
func MessageName(sequence uint64, subject string) string {
	if quoted := strconv.QuoteToASCII(subject); quoted != `"`+subject+`"` {
		subject = quoted
	}
	return fmt.Sprintf("message %d on %s", sequence, subject)
}
