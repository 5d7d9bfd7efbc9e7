package exit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func TestCode(t *testing.T) {
	full, failed, unfinished, usage, unreachable := Full.New("full"), Failed.New("failed"), Unfinished.New("unfinished"), Usage.New("usage"), Unreachable.New("unreachable")
	for _, c := range []struct {
		err  error
		code int
	}{
		{nil, 0},
		{failed, 1},
		{usage, 2},
		{unreachable, 3},
		{unfinished, 4},
		{ToDo.New("to do"), 4},
		{errors.New("of no kind"), 2},
		{fmt.Errorf("DATA_DIR: %w", fmt.Errorf("%w: %w", errors.New("x"), unreachable)), 3},
		{fmt.Errorf("%w: the broker does not answer", context.DeadlineExceeded), 3},
		{fmt.Errorf("reading: %w", &jetstream.APIError{ErrorCode: 10059}), 3},
		// Of several kinds:
		{fmt.Errorf("%w (%w)", unreachable, context.Canceled), 4},
		{errors.Join(unfinished, full), 3},
		{errors.Join(usage, unreachable), 2},
		{errors.Join(unfinished, failed), 1},
	} {
		require.Equal(t, c.code, Code(c.err), "%v", c.err)
	}
}

// TestDocumented: the table in docs/operations.md has these codes, and no others.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	table := regexp.MustCompile(`(?s)\| exit code \| meaning \|\n(.*?)\n\n`).FindSubmatch(text)
	require.NotNil(t, table)
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllSubmatch(table[1], -1) {
		documented[string(row[1])] = true
	}
	want := map[string]bool{"0": true}
	for _, code := range codes {
		want[fmt.Sprint(code)] = true
	}
	require.Equal(t, want, documented)
}
