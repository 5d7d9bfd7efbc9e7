package transfer

import (
	"encoding"
	"hash"

	"github.com/osism/skopeo-worker/shared/reference"
)

// milestone is how many bytes are between two states of a sum that it can go back to.
const milestone = 1 << 20

// sum is the digest of the beginning of a blob. It can go back, so that what is sent
// again is counted once, and what was sent twice is checked as it is at the destination.
type sum struct {
	wanted reference.Digest
	hash   hash.Hash
	n      int64    // bytes in it
	states [][]byte // of the hash, after each milestone
}

func newSum(wanted reference.Digest) *sum { return &sum{wanted: wanted, hash: wanted.Hash()} }

// add counts the next bytes.
func (s *sum) add(p []byte) {
	for len(p) > 0 {
		n := min(int64(len(p)), milestone-s.n%milestone)
		_, _ = s.hash.Write(p[:n]) // a hash takes everything
		s.n += n
		p = p[n:]
		if s.n%milestone == 0 {
			s.keep()
		}
	}
}

func (s *sum) keep() {
	state, err := s.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err == nil && int64(len(s.states)) == s.n/milestone-1 {
		s.states = append(s.states, state)
	}
}

// back goes back to the last milestone at or before n.
func (s *sum) back(n int64) {
	s.states = s.states[:min(int64(len(s.states)), n/milestone)]
	s.hash.Reset()
	for len(s.states) > 0 {
		last := s.states[len(s.states)-1]
		if s.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(last) == nil {
			break
		}
		s.states = s.states[:len(s.states)-1]
		s.hash.Reset()
	}
	s.n = int64(len(s.states)) * milestone
}

// verified reports whether what was added is the blob.
func (s *sum) verified() bool { return s.wanted.IsSum(s.hash) }
