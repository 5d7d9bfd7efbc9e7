package display

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDrawn(t *testing.T) {
	var out, log strings.Builder
	d := NewDrawn(&out)
	d.Clear()
	require.Empty(t, out.String())
	d.Draw("1 of 2")
	d.Draw("2 of 2")
	_, err := d.Above(&log).Write([]byte("a warning\n"))
	require.NoError(t, err)
	d.Clear()
	d.Clear()
	require.Equal(t, "<1 of 2<2 of 2<2 of 2<", strings.ReplaceAll(strings.ReplaceAll(out.String(), clearLine, "<"), "<<", "<"))
	require.Equal(t, "a warning\n", log.String())

	out.Reset()
	d.Draw("one\ntwo\nthree")
	d.Draw("four")
	d.Clear()
	require.Equal(t, "<one\ntwo\nthree<^^four<", strings.ReplaceAll(strings.ReplaceAll(out.String(), clearAbove, "^"), clearLine, "<"))
}
