package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// sendTimeout bounds one message. It is that of shoutrrr.
const sendTimeout = 10 * time.Second

// errRefused is returned if the receiver answers with an error.
var errRefused = errors.New("refused")

// poster sends events. It follows a redirect only if that keeps the method and the body: after any other
// one, net/http would get the page there, which looks like a message that was sent.
var poster = http.Client{CheckRedirect: func(r *http.Request, via []*http.Request) error {
	if r.Method != http.MethodPost || len(via) >= maxRedirects {
		return http.ErrUseLastResponse
	}
	return nil
}}

// maxRedirects is the limit of net/http.
const maxRedirects = 10

// post sends an event as JSON.
func post(to string, e event) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(data))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := poster.Do(r)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) { // it contains the URL, which may have secrets
			err = failed.Err
		}
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%w: %s", errRefused, response.Status)
	}
	return nil
}
