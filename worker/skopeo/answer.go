package skopeo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// The names that the server gives to the two repositories. It does not use their own names: the
// name of a registry with a port is not valid in a path.
const (
	fromRepository = "source"
	toRepository   = "destination"
)

const (
	api       = "/v2/"
	uploading = toRepository + "/blobs/uploads/"

	// pieceSize is how many bytes of a blob are read from the source at once.
	pieceSize = 64 << 10
)

// answer answers a request of the skopeo process.
func (i *serving) answer(w http.ResponseWriter, request *http.Request) {
	path, isAPI := strings.CutPrefix(request.URL.Path, api)
	begun, isUpload := strings.CutPrefix(path, uploading)
	at := strings.LastIndexByte(path, '/') + 1
	blob, listed := i.listed(path[at:])
	image := i.image(path[at:])
	several := i.together && path[at:] == together
	switch what := request.Method + " " + path[:at]; {
	case !isAPI:
		http.NotFound(w, request)
	case what == "GET " && path == "":
		_, _ = io.WriteString(w, "{}") // fails only if the process has ended
	case what == "GET "+fromRepository+"/manifests/" && several:
		i.name(w)
	case what == "GET "+fromRepository+"/manifests/" && image != nil && i.beginImage(image):
		w.Header().Set("Content-Type", image.Manifest.MediaType)
		_, _ = w.Write(image.Manifest.Raw)
	case what == "GET "+fromRepository+"/blobs/" && listed:
		defer i.claims.work()()
		i.send(w, request, blob)
	case what == "HEAD "+toRepository+"/blobs/" && listed:
		i.look(w, request, blob)
	case isUpload && begun == "" && request.Method == http.MethodPost:
		i.begin(w)
	case isUpload && request.Method == http.MethodPatch:
		defer i.claims.work()()
		i.receive(w, request, begun)
	case isUpload && request.Method == http.MethodPut:
		defer i.claims.work()()
		i.end(w, request, begun)
	case what == "PUT "+toRepository+"/manifests/" && several:
		i.confirmAll(w, request)
	case what == "PUT "+toRepository+"/manifests/" && image != nil:
		i.confirm(w, request, image)
	default:
		http.NotFound(w, request)
	}
}

// errGone is returned if the process has closed the connection.
var errGone = errors.New("skopeo has closed the connection")

// send sends a blob of the source. If the source fails, send closes the connection.
func (i *serving) send(w http.ResponseWriter, request *http.Request, blob listed) {
	if !i.during(request, blob.of, func(ctx context.Context) error { return i.pass(ctx, w, blob) }) {
		panic(http.ErrAbortHandler)
	}
}

func (i *serving) pass(ctx context.Context, w http.ResponseWriter, blob listed) error {
	var content Blob
	err := i.wait(func() (err error) { content, err = i.open(ctx, blob); return err })
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	w.Header().Set("Content-Type", "application/octet-stream")
	n := int64(pieceSize)
	if size := content.Size(); size >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		n = min(n, size+1)
	}
	piece := make([]byte, n)
	for {
		n := 0
		err := i.wait(func() (err error) { n, err = content.Read(piece); return err })
		if n > 0 {
			if _, gone := w.Write(piece[:n]); gone != nil {
				return errGone
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// look answers whether the destination has a blob. skopeo sends this request twice for each blob, the
// second time before it uploads the blob. If another process is copying the blob, look waits for the
// end of that copy.
func (i *serving) look(w http.ResponseWriter, request *http.Request, blob listed) {
	if i.together && !i.isAlone() {
		defer i.claims.look()()
	}
	missing := false
	if !i.during(request, blob.of, func(ctx context.Context) error {
		return i.wait(func() (err error) { missing, err = i.isMissing(ctx, blob); return err })
	}) {
		panic(http.ErrAbortHandler)
	}
	if missing {
		http.NotFound(w, request)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(blob.Size, 10))
}

// begin begins an upload. The upload at the destination begins when skopeo sends the content.
func (i *serving) begin(w http.ResponseWriter) {
	i.mu.Lock()
	i.begun++
	begun := strconv.Itoa(i.begun)
	i.uploads[begun] = nil
	i.mu.Unlock()
	accept(w, begun)
}

// accept answers that the process may continue an upload.
func accept(w http.ResponseWriter, begun string) {
	w.Header().Set("Location", api+uploading+begun)
	w.WriteHeader(http.StatusAccepted)
}

// receive sends the content of a blob to the destination. A small one waits for its digest.
func (i *serving) receive(w http.ResponseWriter, request *http.Request, begun string) {
	i.mu.Lock()
	sent, known := i.uploads[begun]
	of := i.current
	i.mu.Unlock()
	if !known || sent != nil || of == nil {
		http.NotFound(w, request)
		return
	}
	if size := request.ContentLength; 0 < size && size <= maxKept {
		content := make([]byte, size)
		if _, err := io.ReadFull(request.Body, content); err != nil {
			panic(http.ErrAbortHandler) // the process is gone
		}
		sent = &received{small: content}
	} else if !i.during(request, of, func(ctx context.Context) error {
		ctx, gone := context.WithCancel(ctx)
		defer gone()
		return i.wait(func() error {
			upload, err := of.Upload(ctx, &arriving{request.Body, i, gone}, size)
			sent = &received{large: upload}
			return err
		})
	}) {
		panic(http.ErrAbortHandler)
	}
	i.mu.Lock()
	i.uploads[begun] = sent
	i.mu.Unlock()
	accept(w, begun)
}

// arriving is the content that the process sends. While Read waits for it, the process does not
// count as waiting for a registry.
type arriving struct {
	io.Reader
	serving *serving
	gone    func() // cancels the request to the destination if the process fails
}

func (a *arriving) Read(p []byte) (int, error) {
	a.serving.waiting.Add(-1)
	defer a.serving.waiting.Add(1)
	n, err := a.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		a.gone()
		err = fmt.Errorf("%w: %w", context.Canceled, err)
	}
	return n, err
}

// end makes the destination store a blob.
func (i *serving) end(w http.ResponseWriter, request *http.Request, begun string) {
	blob, listed := i.listed(request.URL.Query().Get("digest"))
	i.mu.Lock()
	sent := i.uploads[begun]
	delete(i.uploads, begun)
	i.mu.Unlock()
	if sent == nil || !listed {
		http.NotFound(w, request)
		return
	}
	if sent.large == nil {
		i.putLater(blob, sent.small)
	} else if !i.during(request, blob.of, func(ctx context.Context) error {
		defer i.claims.release(blob.at())
		return i.wait(func() error { return sent.large.End(ctx, blob.Digest) })
	}) {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusCreated)
}

// confirm notes that the process has put the manifest of an image unchanged.
func (i *serving) confirm(w http.ResponseWriter, request *http.Request, image *served) {
	raw, err := io.ReadAll(io.LimitReader(request.Body, int64(len(image.Manifest.Raw))+1))
	if err != nil || !bytes.Equal(raw, image.Manifest.Raw) {
		http.Error(w, "another manifest", http.StatusBadRequest)
		return
	}
	i.mu.Lock()
	// The last image is copied when the process has ended.
	early := !image.put && image != i.images[len(i.images)-1]
	image.put = true
	i.mu.Unlock()
	if early {
		go i.settleEarly(image)
	}
	w.WriteHeader(http.StatusCreated)
}
