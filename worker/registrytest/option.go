package registrytest

import (
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// Option changes how a registry is started.
type Option func(*settings)

type settings struct {
	dir             string
	tls             bool
	http2           bool
	nginx           *nginx
	tlsHosts        []string
	tlsClients      bool
	authority       *authority // of an Internet
	basicAuth       *credentials
	basicRefusal    int
	missingStatus   int
	tokenAuth       *TokenAuth
	latency         time.Duration
	tagPage         int
	noDigestHeader  bool
	noRanges        bool
	bodyLimit       int64
	noPatch         int
	emptyEnd        int
	uploads         *movingUploads // nil: they stay
	oddManifests    bool
	headAfterGet    bool
	refusedType     string
	refusedStatus   int
	partialIndexes  bool
	noDelete        bool
	deletion        Deletion
	immutable       []string // tags
	referrersAPI    bool
	referrersPage   int
	pullLimit       int
	silentLimit     bool
	pullWindow      time.Duration
	requestLimiters []requestLimiter
	quayAPI, hubAPI *BulkAPI
	harborAPI       *BulkAPI
	now             func() time.Time
}

// WithDirectory stores the content in a folder instead of in memory, for images larger than
// memory, or if the content must outlive the process.
func WithDirectory(dir string) Option {
	return func(s *settings) { s.dir = dir }
}

// WithTLS serves HTTPS with a certificate for 127.0.0.1, localhost and the
// given hosts, signed by an authority of its own; see CA and WriteCA.
func WithTLS(hosts ...string) Option {
	return func(s *settings) { s.tls, s.tlsHosts = true, hosts }
}

// WithClientCertificates requires a client certificate of the authority; see WriteClient. It
// needs WithTLS.
func WithClientCertificates() Option {
	return func(s *settings) { s.tlsClients = true }
}

// WithBasicAuth requires this user and password for all requests.
func WithBasicAuth(user, password string) Option {
	return func(s *settings) { s.basicAuth = &credentials{user, password} }
}

// WithBasicRefusal answers wrong credentials with a status other than 401, as ECR answers 403
// to expired ones.
func WithBasicRefusal(status int) Option {
	return func(s *settings) { s.basicRefusal = status }
}

// WithMissingStatus answers reads of a missing repository with this status, which does not
// reveal whether it exists.
func WithMissingStatus(status int) Option {
	return func(s *settings) { s.missingStatus = status }
}

// WithTokenAuth requires a bearer token of the registry's own token service for all requests,
// as Docker Hub and quay.io do.
func WithTokenAuth(auth TokenAuth) Option {
	return func(s *settings) { s.tokenAuth = &auth }
}

// WithLatency delays all requests, as a network does.
func WithLatency(latency time.Duration) Option {
	return func(s *settings) { s.latency = latency }
}

// WithTagPage answers tags/list with at most n tags and a Link header to the next page,
// however many are requested.
func WithTagPage(n int) Option {
	return func(s *settings) { s.tagPage = n }
}

// WithoutDigestHeader leaves Docker-Content-Digest out of the answers to manifest HEADs. The
// specification permits that.
func WithoutDigestHeader() Option {
	return func(s *settings) { s.noDigestHeader = true }
}

// WithOddManifests also supports manifests that distribution does not: those of Docker's schema 1,
// and those with a digest other than SHA-256. It does not check that the blobs and manifests to
// which they refer exist.
func WithOddManifests() Option {
	return func(s *settings) { s.oddManifests = true }
}

// WithoutRanges sends the whole blob if a part is requested.
func WithoutRanges() Option {
	return func(s *settings) { s.noRanges = true }
}

// WithHeadAfterGet answers a HEAD of a manifest with 404 until there was a GET of the same
// reference, as proxies do that fetch only for GET.
func WithHeadAfterGet() Option {
	return func(s *settings) { s.headAfterGet = true }
}

// WithoutMediaType refuses manifests that contain this media type with a status and without an
// explanation.
func WithoutMediaType(mediaType string, status int) Option {
	return func(s *settings) { s.refusedType, s.refusedStatus = mediaType, status }
}

// WithBodyLimit refuses requests with a larger body, as nginx and Cloudflare in front of a
// registry do.
func WithBodyLimit(bytes int64) Option {
	return func(s *settings) { s.bodyLimit = bytes }
}

// WithoutPatch answers each PATCH with this status: a registry need not take more than
// whole blobs.
func WithoutPatch(status int) Option {
	return func(s *settings) { s.noPatch = status }
}

// WithEmptyEnd answers the request that ends an upload with this status if it has a body: a
// registry need not take a blob there.
func WithEmptyEnd(status int) Option {
	return func(s *settings) { s.emptyEnd = status }
}

// WithMovingUploads makes each answer about an upload name another location for the next request,
// and answers 404 to requests to an earlier one, as the specification permits.
func WithMovingUploads() Option {
	return func(s *settings) { s.uploads = &movingUploads{last: map[string]int{}} }
}

// WithPartialIndexes accepts an index if manifests in it are missing. Without it the registry
// refuses such an index, which is distribution's default for
// validation.manifests.indexes.platforms.
func WithPartialIndexes() Option {
	return func(s *settings) { s.partialIndexes = true }
}

// WithoutDelete answers deletions with 405, which is distribution's default.
func WithoutDelete() Option {
	return func(s *settings) { s.noDelete = true }
}

// WithPullLimit permits limit manifest GETs in any window of this length, and answers more of
// them as Docker Hub does. HEADs are free. Answers to both carry ratelimit-limit and
// ratelimit-remaining.
func WithPullLimit(limit int, window time.Duration) Option {
	return func(s *settings) { s.pullLimit, s.pullWindow = limit, window }
}

// WithoutLimitHeaders leaves out the headers of WithPullLimit until the limit is reached.
func WithoutLimitHeaders() Option { return func(s *settings) { s.silentLimit = true } }

// WithRequestLimit answers requests above perSecond (after a burst) as quay.io does: with an
// HTML 429 without Retry-After. It counts the given kinds together, or all but token requests
// if none is given. It can be used more than once.
func WithRequestLimit(perSecond float64, burst int, kinds ...Kind) Option {
	return func(s *settings) {
		s.requestLimiters = append(s.requestLimiters, requestLimiter{
			limiter: rate.NewLimiter(rate.Limit(perSecond), burst),
			kinds:   slices.Clone(kinds),
		})
	}
}

// WithClock replaces the clock for pull windows and tokens.
func WithClock(now func() time.Time) Option {
	return func(s *settings) { s.now = now }
}
