package registrytest

import (
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fault is something that goes wrong with matching requests. Delay and Gate delay the request.
// Then the first of Hang, Reset, Status, TruncateBody, CutUpload, Lose, Change and Drip that is
// set happens.
// With none of them the request is answered as usual.
type Fault struct {
	Match Match // nil matches all requests; it sees them before they have a Status
	Times int   // how many requests it affects; 0: until it is removed

	Delay time.Duration   // wait this long first
	Gate  <-chan struct{} // wait until this is closed first

	Hang  bool // never answer: until the client goes away or the registry stops
	Reset bool // reset the TCP connection

	Status int // answer with this status, Header and Body
	Header http.Header
	Body   string
	// Echo returns the body instead. Its arguments are the scheme and value of the request's
	// Authorization header, if there is one.
	Echo func(scheme, value string) string
	// Location returns a Location header in addition. Its argument is the URL of the request.
	Location func(asked *url.URL) string
	// Drain reads the request's body before that answer, as fronts do that buffer requests.
	Drain bool

	TruncateBody bool  // send the headers and half of the body, then disconnect
	CutUpload    int64 // store so many bytes of the request's body, then disconnect

	Lose bool // handle the request, then disconnect without an answer
	// Change changes the registry's answer before it is sent.
	Change func(req *http.Request, answer *Answer)

	// Drip sends the headers, then as many bytes of the body as each number says, and the rest
	// when it is closed.
	Drip <-chan int
}

// Answer is the answer of a registry. Without a Transfer-Encoding, its Content-Length is that of
// the body.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// faults are the injected faults in order. The zero value has none.
type faults struct {
	mu       sync.Mutex
	injected []*struck
}

type struck struct {
	fault Fault
	left  int // negative: no end
}

// Inject injects a fault. If several match a request, the one that was injected first applies.
// The returned function removes it.
func (r *Registry) Inject(fault Fault) (remove func()) {
	if fault.Match == nil {
		fault.Match = Any
	}
	s := &struck{fault: fault, left: fault.Times}
	if fault.Times == 0 {
		s.left = -1
	}
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.injected = append(r.faults.injected, s)
	return func() { r.faults.remove(s) }
}

func (f *faults) remove(s *struck) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.injected = slices.DeleteFunc(f.injected, func(other *struck) bool { return other == s })
}

// take returns the fault that applies to the request, or the zero value.
func (f *faults) take(request Request) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, s := range f.injected {
		if !s.fault.Match(request) {
			continue
		}
		s.left--
		if s.left == 0 {
			f.injected = slices.Delete(f.injected, i, i+1)
		}
		return s.fault
	}
	return Fault{}
}

// answers applies the fault. It returns false if the request is to be answered as usual.
func (f Fault) answers(w http.ResponseWriter, req *http.Request) bool {
	pause(req.Context(), f.Delay)
	if f.Gate != nil {
		select {
		case <-f.Gate:
		case <-req.Context().Done():
		}
	}
	switch {
	case f.Hang:
		<-req.Context().Done()
		panic(http.ErrAbortHandler)
	case f.Reset:
		reset(w)
	case f.Status != 0:
		maps.Copy(w.Header(), f.Header.Clone())
		if f.Location != nil {
			w.Header().Set("Location", f.Location(req.URL))
		}
		if f.Drain {
			_, _ = io.Copy(io.Discard, req.Body)
		}
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.body(req)) // the client may have disconnected
	default:
		return false
	}
	return true
}

func (f Fault) body(req *http.Request) string {
	if f.Echo == nil {
		return f.Body
	}
	scheme, value, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	return f.Echo(scheme, value)
}

// reset closes the connection with RST, which is what the kernel sends if the linger time is
// 0.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	resetConn(conn)
}

func resetConn(conn net.Conn) {
	tcp := conn
	if secure, ok := conn.(*tls.Conn); ok {
		tcp = secure.NetConn()
	}
	if tcp, ok := tcp.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = tcp.Close()
}

// truncate answers with the full Content-Length and half of the body.
func truncate(w http.ResponseWriter, answer func(http.ResponseWriter)) {
	whole := httptest.NewRecorder()
	answer(whole)
	body := whole.Body.Bytes()
	maps.Copy(w.Header(), whole.Header())
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(whole.Code)
	_, _ = w.Write(body[:len(body)/2])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// cutUpload lets the registry handle the request as if its body had ended too early, and
// resets the connection instead of answering.
func cutUpload(w http.ResponseWriter, req *http.Request, size int64, answer func(http.ResponseWriter, *http.Request)) {
	req = req.WithContext(req.Context())
	req.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(req.Body, size), broken{}), req.Body}
	answer(httptest.NewRecorder(), req)
	reset(w)
}

// change sends the registry's answer after the fault has changed it.
func (f Fault) change(w http.ResponseWriter, req *http.Request, answer func(http.ResponseWriter)) {
	whole := httptest.NewRecorder()
	answer(whole)
	changed := Answer{whole.Code, whole.Header(), whole.Body.Bytes()}
	f.Change(req, &changed)
	switch {
	case changed.Header.Get("Transfer-Encoding") != "":
		changed.Header.Del("Content-Length")
	case req.Method != http.MethodHead:
		changed.Header.Set("Content-Length", strconv.Itoa(len(changed.Body)))
	}
	maps.Copy(w.Header(), changed.Header)
	w.WriteHeader(changed.Status)
	_, _ = w.Write(changed.Body) // the client may have disconnected
}

// broken is the body of a connection that was cut.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// drip answers with the body in pieces.
func drip(w http.ResponseWriter, req *http.Request, pieces <-chan int, answer func(http.ResponseWriter)) {
	whole := httptest.NewRecorder()
	answer(whole)
	left := whole.Body.Bytes()
	maps.Copy(w.Header(), whole.Header())
	w.Header().Set("Content-Length", strconv.Itoa(len(left)))
	w.WriteHeader(whole.Code)
	for open := true; open; {
		_ = http.NewResponseController(w).Flush()
		var n int
		select {
		case n, open = <-pieces:
		case <-req.Context().Done():
			panic(http.ErrAbortHandler)
		}
		if n = min(n, len(left)); !open {
			n = len(left)
		}
		_, _ = w.Write(left[:n])
		left = left[n:]
	}
}

// pause waits, or until the request ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
