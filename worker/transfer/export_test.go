package transfer

import "time"

// PartSize is the size of a part, and Together how many blobs of one image are copied at once.
const (
	PartSize = partSize
	Together = together
)

// SetSlow sets how long a part takes at a source that is slow.
func (b *Blobs) SetSlow(d time.Duration) { b.splits.slow = d }

// IsFaster reports whether a part that takes so long over one of several connections, instead
// of over one, is worth them.
func IsFaster(one, several time.Duration) bool {
	return isFaster(pace{2 * partSize, 2 * one}, pace{partSize, several})
}
