package broker_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
)

// TestAnswered: a request without an answer is sent again, a few times. An answer is taken as
// it is, and a cancelled context ends the wait.
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
		"at once":      {t.Context(), []error{nil}, nil, 1},
		"at last":      {t.Context(), []error{context.DeadlineExceeded, context.DeadlineExceeded, nil}, nil, 3},
		"never":        {t.Context(), []error{context.DeadlineExceeded}, context.DeadlineExceeded, 3},
		"refused":      {t.Context(), []error{refused}, refused, 1},
		"no responder": {over, []error{context.DeadlineExceeded}, context.DeadlineExceeded, 1},
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
