package selection

import (
	"errors"
	"fmt"
	"strings"
)

// ErrInvalid is a selection that means nothing.
var ErrInvalid = errors.New("invalid selection")

// Whole is the index of a problem that is not one item's.
const Whole = -1

// Problem is one mistake in a selection.
type Problem struct {
	// Key is the JSON name of the field: "include".
	Key string
	// Index is the item's, from 0, or Whole.
	Index int
	// Text is what is wrong, without the key.
	Text string
}

func (p Problem) String() string {
	if p.Index == Whole {
		return p.Key + ": " + p.Text
	}
	return fmt.Sprintf("%s[%d]: %s", p.Key, p.Index, p.Text)
}

// Error is every problem of a selection. It is an ErrInvalid.
type Error struct{ Problems []Problem }

// Error has one text line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Is implements errors.Is.
func (e *Error) Is(target error) bool { return target == ErrInvalid }

// Validate returns nil, or an *Error with every problem there is.
func (s Selection) Validate() error {
	_, err := s.Compile()
	return err
}
