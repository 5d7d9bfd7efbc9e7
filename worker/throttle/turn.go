package throttle

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
)

// turn is the wait of one request until its registry's rate allows it. The request waits after it has
// got a connection: then the protocol is known, and the request arrives soon after its turn.
type turn struct {
	throttle *Throttle
	call     *budget.Call
	as       budget.Kind // by which to pace the request; if empty, it is not paced
	explores bool        // the request may discover an unknown limit
	cancel   context.CancelCauseFunc
	sent     atomic.Bool // the request was sent over the last connection
	lost     func()      // called if the request was lost with that connection
	err      error       // why the request must not be sent
}

// errLost is returned if the connection ended after a request with a token was sent, and before
// the answer came. The registry may have counted the request.
var errLost = fmt.Errorf("the registry ended the connection before it answered: %w", io.ErrUnexpectedEOF)

// await returns the request, which will wait for its turn, and the turn.
func (t *Throttle) await(request *http.Request, call *budget.Call, as budget.Kind) (*http.Request, *turn) {
	ctx, cancel := context.WithCancelCause(request.Context())
	waiting := &turn{throttle: t, call: call, as: as, explores: t.explores(request, call.Registry), cancel: cancel}
	waiting.lost = func() { t.observe(request, call.Kind, nil) }
	return request.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:      func(got httptrace.GotConnInfo) { waiting.comes(ctx, got.Conn) },
		WroteHeaders: func() { waiting.sent.Store(true) },
	})), waiting
}

// comes waits for the turn. net/http calls it again before it repeats a request that was lost with a
// connection. It refuses to repeat a request with a token, because a token is for one request. After
// a refusal, it cancels the request. It also closes an HTTP/1.1 connection, over which net/http would
// send the cancelled request nevertheless.
func (w *turn) comes(ctx context.Context, conn net.Conn) {
	w.call.Protocol = protocolOf(conn)
	again := w.sent.Swap(false)
	if again {
		w.lost()
	}
	switch {
	case w.as != "":
		w.err = w.throttle.explain(ctx, w.call.Registry, w.pace(ctx))
		w.call.Started = time.Now()
	case again:
		w.err = errLost
	}
	if w.err == nil {
		return
	}
	w.cancel(w.err)
	if w.call.Protocol == budget.HTTP1 {
		_ = conn.Close()
	}
}

func (w *turn) pace(ctx context.Context) error {
	if w.explores {
		if err := w.throttle.Budget.Explore(ctx, w.call.Registry, w.as); err != nil {
			return err
		}
	}
	return w.throttle.Budget.PaceOver(ctx, w.call.Registry, w.as, w.call.Protocol)
}

// explores reports whether a request may discover an unknown limit: if it is for the registry API of
// a source. Destinations are the operator's own, token servers get few requests, and the hosts to
// which registries redirect for blobs are made for many.
func (t *Throttle) explores(request *http.Request, registry string) bool {
	return request.Response == nil && strings.HasPrefix(request.URL.Path, "/v2/") && !t.IsDestination(registry)
}

// ends releases the context when the answer has been read.
func (w *turn) ends(response *http.Response) {
	if response.Body == nil || response.Body == http.NoBody {
		w.cancel(nil)
		return
	}
	response.Body = &answer{response.Body, w.cancel}
}

// answer is the body of an answer. Close releases the context of the request.
type answer struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (a *answer) Close() error {
	defer a.cancel(nil)
	return a.ReadCloser.Close()
}

// protocolOf returns the protocol of a connection.
func protocolOf(conn net.Conn) budget.Protocol {
	if secure, ok := conn.(*tls.Conn); ok && secure.ConnectionState().NegotiatedProtocol == "h2" {
		return budget.HTTP2
	}
	return budget.HTTP1
}
