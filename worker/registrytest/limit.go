package registrytest

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What Docker Hub and quay.io say to those who ask too much.
const (
	pullLimitMessage = "You have reached your pull rate limit. You may increase the limit by authenticating " +
		"and upgrading: https://www.docker.com/increase-rate-limit"
	requestLimitPage = "<html>\r\n<head><title>429 Too Many Requests</title></head>\r\n" +
		"<body>\r\n<center><h1>429 Too Many Requests</h1></center>\r\n</body>\r\n</html>\r\n"
)

// rateLimitSource is what docker-ratelimit-source says: an address reserved
// for documentation.
const rateLimitSource = "192.0.2.1"

// pullLimit is a sliding window: exact, at the price of remembering each pull.
type pullLimit struct {
	limit  int
	window time.Duration
	now    func() time.Time
	silent bool // without headers

	mu    sync.Mutex
	pulls []time.Time // those in the window, oldest first
}

// SpendPulls takes n pulls off the limit of WithPullLimit, as somebody else
// behind the same address does. It panics without that option.
func (r *Registry) SpendPulls(n int) {
	r.pulls.mu.Lock()
	defer r.pulls.mu.Unlock()
	r.pulls.spend(n)
}

func (p *pullLimit) spend(n int) {
	p.pulls = append(p.pulls, slices.Repeat([]time.Time{p.now()}, n)...)
}

// refuses counts a pull, or answers that there are none left.
func (p *pullLimit) refuses(w http.ResponseWriter, request Request) bool {
	if request.Kind != KindManifestHead && request.Kind != KindManifestGet {
		return false
	}
	refused, remaining := p.take(request.Kind == KindManifestGet)
	if !p.silent {
		seconds := int(math.Ceil(p.window.Seconds()))
		w.Header().Set("ratelimit-limit", fmt.Sprintf("%d;w=%d", p.limit, seconds))
		w.Header().Set("ratelimit-remaining", fmt.Sprintf("%d;w=%d", remaining, seconds))
		w.Header().Set("docker-ratelimit-source", rateLimitSource)
	}
	if refused {
		writeError(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", pullLimitMessage)
	}
	return refused
}

func (p *pullLimit) take(pull bool) (refused bool, remaining int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	start := p.now().Add(-p.window)
	p.pulls = slices.DeleteFunc(p.pulls, func(at time.Time) bool { return !at.After(start) })
	if pull {
		refused = len(p.pulls) >= p.limit
		if !refused {
			p.spend(1)
		}
	}
	return refused, max(0, p.limit-len(p.pulls))
}

// requestLimiter limits requests of some kinds a second.
type requestLimiter struct {
	limiter *rate.Limiter
	kinds   []Kind // empty: all
}

func (l requestLimiter) refuses(w http.ResponseWriter, request Request) bool {
	if len(l.kinds) > 0 && !slices.Contains(l.kinds, request.Kind) || l.limiter.Allow() {
		return false
	}
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusTooManyRequests)
	_, _ = io.WriteString(w, requestLimitPage) // the client may be gone
	return true
}
