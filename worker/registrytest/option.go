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
	oddManifests    bool
	headAfterGet    bool
	refusedType     string
	refusedStatus   int
	partialIndexes  bool
	referrersAPI    bool
	referrersPage   int
	pullLimit       int
	silentLimit     bool
	pullWindow      time.Duration
	requestLimiters []requestLimiter
	quayAPI, hubAPI *BulkAPI
	now             func() time.Time
}

// WithDirectory keeps what is pushed in a folder instead of in memory: for
// images larger than memory, and where a registry shall outlive its process.
func WithDirectory(dir string) Option {
	return func(s *settings) { s.dir = dir }
}

// WithTLS serves HTTPS with a certificate for 127.0.0.1, localhost and the
// given hosts, signed by an authority of its own; see CA and WriteCA.
func WithTLS(hosts ...string) Option {
	return func(s *settings) { s.tls, s.tlsHosts = true, hosts }
}

// WithClientCertificates wants clients to show a certificate of the authority; see
// WriteClient. It takes WithTLS.
func WithClientCertificates() Option {
	return func(s *settings) { s.tlsClients = true }
}

// WithBasicAuth asks every request for this user and password.
func WithBasicAuth(user, password string) Option {
	return func(s *settings) { s.basicAuth = &credentials{user, password} }
}

// WithBasicRefusal answers wrong credentials with another status than 401, as ECR does
// with 403 when they have ended.
func WithBasicRefusal(status int) Option {
	return func(s *settings) { s.basicRefusal = status }
}

// WithMissingStatus answers a look at tags and manifests of a repository that does not
// exist with this status, so that nobody learns whether it does.
func WithMissingStatus(status int) Option {
	return func(s *settings) { s.missingStatus = status }
}

// WithTokenAuth asks every request for a bearer token of the registry's own
// token service, as Docker Hub and quay.io do.
func WithTokenAuth(auth TokenAuth) Option {
	return func(s *settings) { s.tokenAuth = &auth }
}

// WithLatency delays every request, as a network does.
func WithLatency(latency time.Duration) Option {
	return func(s *settings) { s.latency = latency }
}

// WithTagPage answers tags/list with at most n tags and a Link header to the
// next page, however many were asked for.
func WithTagPage(n int) Option {
	return func(s *settings) { s.tagPage = n }
}

// WithoutDigestHeader leaves Docker-Content-Digest out of the answers to
// manifest HEADs, which the specification allows.
func WithoutDigestHeader() Option {
	return func(s *settings) { s.noDigestHeader = true }
}

// WithOddManifests also holds what distribution does not: manifests of Docker's schema 1,
// and those under a digest that is not SHA-256. It does not look at what they refer to.
func WithOddManifests() Option {
	return func(s *settings) { s.oddManifests = true }
}

// WithoutRanges sends all of a blob where a part was asked for.
func WithoutRanges() Option {
	return func(s *settings) { s.noRanges = true }
}

// WithHeadAfterGet answers a HEAD of a manifest with 404 until a GET of the same
// reference has been answered, as proxies do that fetch on GET only.
func WithHeadAfterGet() Option {
	return func(s *settings) { s.headAfterGet = true }
}

// WithoutMediaType refuses manifests with this media type in them, with a status and
// without a word of what is wrong.
func WithoutMediaType(mediaType string, status int) Option {
	return func(s *settings) { s.refusedType, s.refusedStatus = mediaType, status }
}

// WithPartialIndexes accepts an index although manifests below it are missing.
// Without it the registry refuses such an index, as distribution does unless
// validation.manifests.indexes.platforms says otherwise.
func WithPartialIndexes() Option {
	return func(s *settings) { s.partialIndexes = true }
}

// WithPullLimit allows limit manifest GETs in any window of this length, and
// answers the ones above it as Docker Hub does. HEADs are free, and both carry
// ratelimit-limit and ratelimit-remaining.
func WithPullLimit(limit int, window time.Duration) Option {
	return func(s *settings) { s.pullLimit, s.pullWindow = limit, window }
}

// WithoutLimitHeaders keeps the limit of WithPullLimit from being told before it is
// reached.
func WithoutLimitHeaders() Option { return func(s *settings) { s.silentLimit = true } }

// WithRequestLimit answers what exceeds perSecond (after a burst) as quay.io
// does: an HTML 429 without Retry-After. Of the given kinds together, or of all
// but token requests where none is given. It can be given more than once.
func WithRequestLimit(perSecond float64, burst int, kinds ...Kind) Option {
	return func(s *settings) {
		s.requestLimiters = append(s.requestLimiters, requestLimiter{
			limiter: rate.NewLimiter(rate.Limit(perSecond), burst),
			kinds:   slices.Clone(kinds),
		})
	}
}

// WithClock replaces the clock that pull windows and tokens go by.
func WithClock(now func() time.Time) Option {
	return func(s *settings) { s.now = now }
}
