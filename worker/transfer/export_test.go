package transfer

import "time"

// PartSize is the size of a part, and Together how many blobs of one image are copied at once.
const (
	PartSize = partSize
	Together = together
)

// SetSlow sets slowPart.
func (b *Blobs) SetSlow(d time.Duration) { b.splits.slow = d }

// IsFaster is isFaster. Its arguments are how long a part takes over one connection and over several.
func IsFaster(one, several time.Duration) bool {
	return isFaster(pace{2 * partSize, 2 * one}, pace{partSize, several})
}
