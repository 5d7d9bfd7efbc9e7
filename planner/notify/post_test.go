package notify

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRedirected: a message counts as sent only if the receiver has got it.
func TestRedirected(t *testing.T) {
	for status, arrives := range map[int]bool{301: false, 302: false, 303: false, 307: true, 308: true} {
		i := newInbox(t)
		redirects := httptest.NewServer(http.RedirectHandler(i.URL, status))
		t.Cleanup(redirects.Close)
		err := post(redirects.URL, event{Title: "moved"})
		if arrives {
			require.NoError(t, err, status)
			require.Equal(t, "moved", i.take()[0].Title)
			continue
		}
		require.ErrorIs(t, err, errRefused, status)
		require.Empty(t, i.take(), status)
	}
}
