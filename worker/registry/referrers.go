package registry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
)

// Referrers lists the manifests whose subject is a digest, in the registry's order. It requests each
// page when it is needed, which is not a pull. An error is the last item. ErrNoReferrersAPI, which is
// remembered for an hour, means that the fallback tag lists the referrers.
func (c *Client) Referrers(ctx context.Context, repository reference.Repository, subject reference.Digest) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		list := referrersList{Client: c, repository: repository, subject: subject}
		for more := true; more; {
			entries, err := list.page(ctx)
			if err != nil {
				yield(Entry{}, about(err, OpReferrers, repository, subject))
				return
			}
			for _, entry := range entries {
				if !yield(entry, nil) {
					return
				}
			}
			more = list.query != ""
		}
	}
}

// referrersList is a listing in progress.
type referrersList struct {
	*Client
	repository reference.Repository
	subject    reference.Digest

	pages Pages
	query string // of the next page; "" for the first, and after the last
	begun bool
}

// page returns the next page.
func (l *referrersList) page(ctx context.Context) ([]Entry, error) {
	host, err := l.host(l.repository)
	if err != nil {
		return nil, err
	}
	if !l.begun && l.noReferrers.isKnown(host) {
		return nil, ErrNoReferrersAPI
	}
	if err := l.pages.At(l.call().below() + "?" + l.query); err != nil {
		return nil, err
	}
	index, got, err := l.ask(ctx)
	if !l.begun && errors.Is(err, ErrPage) {
		index, got, err = l.askAgain(ctx, err)
	}
	if !l.begun && lacksAPI(err) {
		index, got, err = l.confirm(ctx, host, err)
	}
	if err != nil {
		return nil, err
	}
	next, err := l.call().nextQuery(got)
	if err != nil {
		return nil, err
	}
	l.begun, l.query = true, next
	entries, err := index.Entries()
	if err != nil {
		return nil, err
	}
	return entries, l.pages.Has(len(entries))
}

// call returns the request for the next page.
func (l *referrersList) call() *call {
	return &call{
		op: OpReferrers, repository: l.repository, reference: l.subject, method: http.MethodGet,
		scope: transport.PullScope, path: referrers, query: l.query,
		accept: string(types.OCIImageIndex), limit: maxManifestSize, instead: aReferrers,
	}
}

// ask requests the next page.
func (l *referrersList) ask(ctx context.Context) (Manifest, answer, error) {
	got, err := l.send(ctx, l.call())
	if err != nil {
		return Manifest{}, answer{}, err
	}
	index, err := readIndex(got)
	return index, got, err
}

// askAgain finds out the reason for an HTML page. A registry without the API may show its website
// instead, or a proxy may answer all requests with a page for now. So it looks up the subject, which
// every registry supports, and then asks once more.
func (l *referrersList) askAgain(ctx context.Context, page error) (Manifest, answer, error) {
	_, err := l.Head(ctx, l.repository, l.subject)
	if errors.Is(err, ErrPage) {
		return Manifest{}, answer{}, page
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Manifest{}, answer{}, err
	}
	index, got, err := l.ask(ctx)
	if errors.Is(err, ErrPage) {
		err = errWebsite
	}
	return index, got, err
}

// confirm finds out whether the registry lacks the API, as its answer seems to mean. If it does, the error
// is ErrNoReferrersAPI, and that is noted if the registry has the subject: Quay answers 404 or 400 for a
// subject that it does not have. While a registry is away, a proxy may answer so to every request; then
// the error is that of GET /v2/.
func (l *referrersList) confirm(ctx context.Context, host string, answered error) (Manifest, answer, error) {
	if errors.Is(answered, errNoRepository) || errors.Is(answered, errHidden) {
		return Manifest{}, answer{}, ErrNoReferrersAPI
	}
	_, err := l.send(ctx, manifestCall(OpHead, http.MethodHead, l.repository, l.subject, maxErrorSize))
	missing := Absent(err) && !l.denials.isKnown(host)
	if Absent(err) || servesNoHead(err) {
		err = l.Alive(ctx, l.repository, true)
	}
	if err != nil {
		return Manifest{}, answer{}, err
	}
	if !errors.Is(answered, errWebsite) { // for which the API was asked twice
		index, got, err := l.ask(ctx)
		if !lacksAPI(err) {
			return index, got, err
		}
	}
	if !missing {
		l.noReferrers.note(host)
	}
	return Manifest{}, answer{}, ErrNoReferrersAPI
}

// errWebsite is returned for an HTML page from a registry that answers other requests.
var errWebsite = fmt.Errorf("%w: a website", ErrUnexpected)

func readIndex(got answer) (Manifest, error) {
	kind, err := mediaType(got.body, got.header)
	if err != nil || !types.MediaType(kind).IsIndex() {
		return Manifest{}, &pageError{got.status, anotherKind, aReferrers}
	}
	return Manifest{Raw: got.body, MediaType: kind}, nil
}

// lacksAPI reports whether the first page has failed because the registry lacks the API. The OCI
// distribution specification requires 404. Some registries answer as to a malformed request, or with
// their website.
func lacksAPI(err error) bool {
	if errors.Is(err, errWebsite) || errors.Is(err, errHidden) {
		return true
	}
	switch statusOf(err) {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable:
		return true
	}
	return false
}
