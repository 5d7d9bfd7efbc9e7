package failure

import (
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/subject"
)

// FuzzRecord: any record is republished as a message that a worker can read, or as its unreadable message,
// and can be written again.
func FuzzRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		var content versioned
		_ = json.Unmarshal(data, &content) // and whatever it is, it is in its place
		subj := subject.Failure("default", content.Registry, content.Repository, 1)
		read := func(data []byte) *page {
			p := &page{number: 1}
			p.read(&jetstream.RawStreamMsg{Subject: subj, Data: data})
			return p
		}
		p := read(data)
		if len(p.foreign) > 0 {
			require.LessOrEqual(t, len(p.foreign[0].record().Message), keptBytes)
			return
		}
		sent, err := payload("default", "r2", p, p.record.Images)
		if err == nil && p.record.Message == nil {
			c, err := message.Decode(sent)
			require.NoError(t, err)
			require.Len(t, c.Repositories, len(p.record.Images))
		}
		encoded, err := p.encode()
		require.NoError(t, err)
		again := read(encoded)
		require.Empty(t, again.foreign)
		require.Equal(t, p.size, again.size)
		same, err := again.encode()
		require.NoError(t, err)
		require.Equal(t, string(encoded), string(same))
	})
}
