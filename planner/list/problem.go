package list

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/osism/skopeo-worker/shared/exit"
)

// ErrBadList is a list that was read and can't be used.
var ErrBadList = exit.Usage.New("bad list")

// Problem is one mistake in a list.
type Problem struct {
	// Line counts from 1; 0 stands for the list as a whole.
	Line    int
	Message string
}

func (p Problem) format(source string) string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", source, p.Message)
	}
	return fmt.Sprintf("%s:%d: %s", source, p.Line, p.Message)
}

// Error is every problem of a list, in the order of its lines. It is an
// ErrBadList.
type Error struct {
	// Source is what the list was fetched from, redacted.
	Source   string
	Problems []Problem
}

func newError(source string, problems []Problem) *Error {
	slices.SortStableFunc(problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return &Error{Source: source, Problems: problems}
}

// Error has one text line for each problem, as compilers print them.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.format(e.Source)
	}
	return strings.Join(lines, "\n")
}

// Is makes every Error an ErrBadList.
func (e *Error) Is(target error) bool { return target == ErrBadList }
