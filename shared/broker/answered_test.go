package broker_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
)

// TestAnswered: what gets no answer is asked for again, a few times; an answer is
// taken as it is, and nobody waits who does not want it any more.
func TestAnswered(t *testing.T) {
	refused := errors.New("no")
	over, end := context.WithCancel(t.Context())
	end()
	for name, c := range map[string]struct {
		ctx     context.Context
		answers []error // the last one for ever
		err     error
		asked   int
	}{
		"at once":        {t.Context(), []error{nil}, nil, 1},
		"at last":        {t.Context(), []error{context.DeadlineExceeded, context.DeadlineExceeded, nil}, nil, 3},
		"never":          {t.Context(), []error{context.DeadlineExceeded}, context.DeadlineExceeded, 3},
		"refused":        {t.Context(), []error{refused}, refused, 1},
		"nobody listens": {over, []error{context.DeadlineExceeded}, context.DeadlineExceeded, 1},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			err := broker.Answered(c.ctx, func() error {
				asked++
				return c.answers[min(asked, len(c.answers))-1]
			})
			require.ErrorIs(t, err, c.err)
			require.Equal(t, c.asked, asked)
		})
	}
}
