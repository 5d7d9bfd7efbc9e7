package throttle_test

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/throttle"
)

// losing is a registry that loses some requests for manifests with their connection.
type losing struct {
	*httptest.Server
	left   atomic.Int64 // how many more it loses
	pulled atomic.Int64 // requests for manifests that it has received
}

// loses reports whether a request for a manifest, which has arrived, is lost.
func (l *losing) loses() bool {
	l.pulled.Add(1)
	return l.left.Add(-1) >= 0
}

// losingHTTP1 loses requests in that it closes or resets the connection.
func losingHTTP1(linger int) func(t *testing.T) *losing {
	return func(t *testing.T) *losing {
		l := &losing{}
		l.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || !l.loses() {
				return
			}
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			tcp := conn.(*tls.Conn).NetConn()
			_ = tcp.(*net.TCPConn).SetLinger(linger)
			_ = tcp.Close()
		}))
		t.Cleanup(l.Close)
		return l
	}
}

// losingHTTP2 loses requests in that it ends the stream or the connection like a server that does
// not handle them.
func losingHTTP2(lose func(f *http2.Framer, stream uint32) error) func(t *testing.T) *losing {
	return func(t *testing.T) *losing {
		l := &losing{}
		l.Server = httptest.NewUnstartedServer(nil)
		l.EnableHTTP2 = true
		l.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
			"h2": func(_ *http.Server, conn *tls.Conn, _ http.Handler) { l.serve(conn, lose) },
		}
		l.StartTLS()
		t.Cleanup(l.Close)
		return l
	}
}

func (l *losing) serve(conn net.Conn, lose func(f *http2.Framer, stream uint32) error) {
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	f := http2.NewFramer(conn, conn)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if f.WriteSettings() != nil {
		return
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		headers, ok := frame.(*http2.MetaHeadersFrame)
		if !ok {
			continue
		}
		if headers.PseudoValue("method") == http.MethodGet && l.loses() {
			err = lose(f, headers.StreamID)
		} else {
			err = f.WriteHeaders(http2.HeadersFrameParam{
				StreamID: headers.StreamID, EndStream: true, EndHeaders: true,
				BlockFragment: []byte{0x88}, // :status 200, of the static table
			})
		}
		if err != nil {
			return
		}
	}
}

// TestLostRequests: net/http sends a request again if it is lost with a connection that was used
// before. The registry may have counted both, so each takes a token.
func TestLostRequests(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) *losing{
		"a closed connection": losingHTTP1(-1),
		"a reset connection":  losingHTTP1(0),
		"a refused stream": losingHTTP2(func(f *http2.Framer, stream uint32) error {
			return f.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
		}),
		"GOAWAY": losingHTTP2(func(f *http2.Framer, stream uint32) error {
			return errors.Join(f.WriteGoAway(stream-2, http2.ErrCodeNo, nil), io.EOF)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, c := range []struct {
				limit, loses, pulled int
				spent, lost          bool
			}{
				{limit: 1, loses: 1, pulled: 1, spent: true},
				{limit: 2, loses: 1, pulled: 2},
				{limit: 3, loses: 2, pulled: 2, lost: true},
			} {
				registry := start(t)
				host := registry.Listener.Addr().String()
				store, err := budget.Open(t.Context(), brokertest.Embedded(t), slog.New(slog.DiscardHandler))
				require.NoError(t, err)
				t.Cleanup(store.Close)
				require.NoError(t, store.SetLimits(t.Context(), "default", map[string]budget.Limit{host: {Requests: c.limit, Window: time.Hour}}))
				require.NoError(t, store.CatchUp(t.Context()))
				var observed []int
				th := &throttle.Throttle{Budget: store, Log: slog.New(slog.DiscardHandler), Observe: func(_ string, kind budget.Kind, status int) {
					if kind == budget.Pull {
						observed = append(observed, status)
					}
				}}
				client := registry.Client()
				client.Transport = th.Transport(client.Transport, "default")
				send := func(method string) error {
					request, err := http.NewRequestWithContext(t.Context(), method, registry.URL+"/v2/a/manifests/1", http.NoBody)
					require.NoError(t, err)
					response, err := client.Do(request)
					if err == nil {
						err = response.Body.Close()
					}
					return err
				}
				require.NoError(t, send(http.MethodHead)) // opens a connection
				registry.left.Store(int64(c.loses))
				err = send(http.MethodGet)
				require.Equal(t, c.spent, errors.As(err, new(*budget.SpentError)), "%v", err)
				require.Equal(t, c.lost, err != nil && !c.spent, "%v", err)
				require.EqualValues(t, c.pulled, registry.pulled.Load())
				require.Len(t, observed, c.pulled)
				standings, err := store.Standings(t.Context())
				require.NoError(t, err)
				require.Equal(t, reference.RegistryOf(host), standings[0].Registry)
				require.Equal(t, c.pulled, standings[0].Spent)
			}
		})
	}
}
