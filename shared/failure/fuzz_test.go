package failure

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/subject"
)

// FuzzRecord: whatever is in a record, what is delivered again is a message that a worker
// can read, or the one that came; and the record can be written again.
func FuzzRecord(f *testing.F) {
	subj := subject.Failure("default", "quay.io", "quay.io/osism/osism", 1)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parse(subj, 1, nil, data)
		if err != nil {
			return
		}
		sent, err := payload("default", "r2", p)
		if err == nil && p.record.Message == nil {
			c, err := message.Decode(sent)
			require.NoError(t, err)
			require.Len(t, c.Repositories, len(p.record.Images))
		}
		encoded, err := p.encode()
		require.NoError(t, err)
		again, err := parse(subj, 1, nil, encoded)
		require.NoError(t, err)
		require.Equal(t, p.size, again.size)
		same, err := again.encode()
		require.NoError(t, err)
		require.Equal(t, string(encoded), string(same))
	})
}
