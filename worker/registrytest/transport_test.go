package registrytest

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTransport gives up on an answer while a registry hangs, and waits for a slow one otherwise.
func TestTransport(t *testing.T) {
	const hurry = 100 * time.Millisecond
	r := New(t)
	client := http.Client{Transport: NewTransport(hurry, r)}
	get := func() error {
		response, err := client.Get(r.URL() + "/v2/")
		if err != nil {
			return err
		}
		return response.Body.Close()
	}
	mend := r.Inject(Fault{Hang: true})
	require.ErrorContains(t, get(), "timeout awaiting response headers")
	mend()
	r.Inject(Fault{Delay: 3 * hurry})
	require.NoError(t, get())
}
